"""The checks, and how a folder is put through all of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.parity.golden import Absent, Golden
from tests.parity.report import Row, Verdict

Run = Callable[[Golden], Iterator[Row]]

# Arrays that describe others in words, and those that hang on torch's random numbers (spec section 7.3); the folder's
# README names further ones.
_DESCRIPTION, _INFORMATIVE = re.compile(r".*_note"), re.compile(r".*_seed77")
_INPUTS = {"tts_inputs.npz"}


@dataclass(frozen=True)
class Check:
    """`run` yields a row per array it compares; `name` stands for them when it cannot."""

    name: str
    run: Run


CHECKS: list[Check] = []


def check(name: str) -> Callable[[Run], Run]:
    """Registers a check. `name` is the file it reads, with what it compares where a file has several checks."""

    def register(run: Run) -> Run:
        CHECKS.append(Check(name, run))
        return run

    return register


def rows_of(one: Check, golden: Golden) -> list[Row]:
    """A check's rows; what ends it early becomes a row of its own."""
    rows: list[Row] = []
    try:
        rows.extend(one.run(golden))
    except Absent as reason:
        rows.append(Row(one.name, Verdict.ABSENT, note=str(reason)))
    except Exception as error:  # noqa: BLE001 - a damaged folder may break anything; the row says what
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        rows.append(Row(one.name, Verdict.FAIL, note=f"{type(error).__name__}: {first_line}"))
    return rows


def unchecked(golden: Golden, rows: list[Row]) -> list[Row]:
    """Arrays and files of the folder that no check has read, once all have run."""
    mentioned = {row.array.partition(":")[0] for row in rows}
    left: list[Row] = []
    for path in sorted(golden.path.glob("*.npz")):
        arrays = golden.files.get(path.name)
        if arrays is None and path.name not in mentioned | _INPUTS:
            left.append(Row(path.name, Verdict.SKIPPED, note="no check reads this file"))
        if arrays is None:
            continue
        for name in arrays:
            if name in arrays.read or _DESCRIPTION.fullmatch(name):
                continue
            array = f"{path.name}: {name}"
            if name in golden.informative or _INFORMATIVE.fullmatch(name):
                left.append(Row(array, Verdict.INFORMATIVE, note="by the README, or by section 7.3 of the spec"))
            else:
                left.append(Row(array, Verdict.SKIPPED, note="no check reads this array"))
    return left


def run_all(golden: Golden) -> list[Row]:
    """Every check's rows, then what was left unchecked."""
    rows = [row for one in CHECKS for row in rows_of(one, golden)]
    return rows + unchecked(golden, rows)
