"""The committed golden folders through every check, as `make parity GOLDEN=DIR` does for any folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parity import checks
from tests.parity.golden import Golden
from tests.parity.registry import CHECKS, Check, rows_of, unchecked
from tests.parity.report import Row, Verdict, table

__all__ = ["checks"]

DATA = Path(__file__).parents[1] / "data"
CASES = [("cosyvoice2-mini", one) for one in CHECKS] + [("cosyvoice3-mini", one) for one in CHECKS]
# Files that the other family's folder has, and the one array that cannot be compared.
UNSEEN = {
    "cosyvoice2-mini": {"hift.npz: uv"},
    "cosyvoice3-mini": {"flow_noise.npz", "flow_encoder.npz", "ras.npz", "spk2info.pt", "features.npz"},
}


class Folder:
    """An open folder, whose checks run once."""

    def __init__(self, golden: Golden) -> None:
        self.golden = golden
        self._rows: dict[str, list[Row]] = {}

    def rows(self, one: Check) -> list[Row]:
        if one.name not in self._rows:
            self._rows[one.name] = rows_of(one, self.golden)
        return self._rows[one.name]


@pytest.fixture(scope="module")
def folders() -> Iterator[dict[str, Folder]]:
    with Golden(DATA / "cosyvoice2-mini") as two, Golden(DATA / "cosyvoice3-mini") as three:
        yield {"cosyvoice2-mini": Folder(two), "cosyvoice3-mini": Folder(three)}


@pytest.mark.parametrize(("folder", "one"), CASES, ids=[f"{folder}: {one.name}" for folder, one in CASES])
def test_check(folders: dict[str, Folder], folder: str, one: Check) -> None:
    rows = folders[folder].rows(one)
    assert not [row for row in rows if row.verdict is Verdict.FAIL], table(rows)
    assert {row.array for row in rows if row.verdict is not Verdict.PASS} <= UNSEEN[folder], table(rows)


def test_every_array_is_checked(folders: dict[str, Folder]) -> None:
    for folder in folders.values():
        rows = [row for one in CHECKS for row in folder.rows(one)]
        assert {row.verdict for row in unchecked(folder.golden, rows)} <= {Verdict.INFORMATIVE}
