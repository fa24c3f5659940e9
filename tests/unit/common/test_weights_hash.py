"""The hash by which workers recognise equal weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from services.common.checkpoint.weights_hash import weights_hash

Save = Callable[[dict[str, Tensor], Path], None]


def without_checksums(state: dict[str, Tensor], path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, path)
    finally:
        torch.serialization.set_crc32_options(True)


SAVES: dict[str, Save] = {
    "archive": torch.save,
    "legacy": partial(torch.save, _use_new_zipfile_serialization=False),
    "no checksums": without_checksums,
}


@pytest.fixture
def state() -> dict[str, Tensor]:
    return {"first": torch.arange(300_000, dtype=torch.float32), "second": torch.ones(3, 5)}


@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
def test_any_changed_number_changes_the_hash(state: dict[str, Tensor], tmp_path: Path, save: Save) -> None:
    save(state, tmp_path / "one.pt")
    before = weights_hash(tmp_path / "one.pt")
    for tensor, index in (("first", 150_001), ("second", (2, 4))):
        changed = {name: value.clone() for name, value in state.items()}
        changed[tensor][index] += 1e-3 if tensor == "second" else 1
        save(changed, tmp_path / "two.pt")
        assert weights_hash(tmp_path / "two.pt") != before
    save({"first": state["first"], "third": state["second"]}, tmp_path / "two.pt")
    assert weights_hash(tmp_path / "two.pt") != before


def test_the_same_weights_have_the_same_hash_under_any_name(state: dict[str, Tensor], tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    torch.save(state, tmp_path / "one.pt")
    torch.save(state, tmp_path / "copy" / "other.pt")
    assert weights_hash(tmp_path / "one.pt") == weights_hash(tmp_path / "copy" / "other.pt")


def test_the_order_of_the_files_counts(state: dict[str, Tensor], tmp_path: Path) -> None:
    one, two = tmp_path / "one.pt", tmp_path / "two.pt"
    torch.save(state, one)
    torch.save({"first": state["second"]}, two)
    assert weights_hash(one, two) != weights_hash(two, one)
