"""What a check says about one array, and the table of all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike


class Verdict(StrEnum):
    PASS = "pass"  # noqa: S105 - a verdict
    FAIL = "FAIL"
    ABSENT = "absent"
    """The folder has no such file or array; nothing was compared."""
    INFORMATIVE = "informative"
    """The folder's README says that the array only informs, or the note says why it cannot be compared."""
    SKIPPED = "skipped"
    """There is something to compare, but no check compares it; the note says why."""


@dataclass(frozen=True)
class Row:
    """One line of the table. `error` is the largest absolute difference unless the note says otherwise."""

    array: str
    verdict: Verdict
    error: float | None = None
    tolerance: float | None = None
    note: str = ""


def close(array: str, actual: ArrayLike, expected: ArrayLike, tolerance: float, note: str = "") -> Row:
    """Compares numbers element by element; another shape or a NaN fails."""
    ours, golden = np.asarray(actual), np.asarray(expected)
    if ours.shape != golden.shape:
        return Row(array, Verdict.FAIL, None, tolerance, f"shape {list(ours.shape)}, golden {list(golden.shape)}")
    error = float(np.abs(ours.astype(np.float64) - golden.astype(np.float64)).max(initial=0.0))
    return Row(array, Verdict.PASS if error <= tolerance else Verdict.FAIL, error, tolerance, note)


def close_rms(array: str, actual: ArrayLike, expected: ArrayLike, tolerance: float) -> Row:
    """Compares the root mean square of the difference."""
    ours, golden = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    if ours.shape != golden.shape:
        return Row(array, Verdict.FAIL, None, tolerance, f"shape {list(ours.shape)}, golden {list(golden.shape)}")
    error = float(np.sqrt(np.square(ours - golden).mean())) if ours.size else 0.0
    return Row(array, Verdict.PASS if error <= tolerance else Verdict.FAIL, error, tolerance, "root mean square")


def equal(array: str, actual: ArrayLike, expected: ArrayLike) -> Row:
    """Compares ids, lengths or words, all of which must be equal: the error is how many are not."""
    ours, golden = np.asarray(actual), np.asarray(expected)
    if ours.shape != golden.shape:
        return Row(array, Verdict.FAIL, None, 0, f"shape {list(ours.shape)}, golden {list(golden.shape)}")
    differing = int((ours != golden).sum())
    note = f"{differing} of {ours.size} entries differ" if differing else ""
    return Row(array, Verdict.FAIL if differing else Verdict.PASS, differing, 0, note)


def same(array: str, actual: object, expected: object) -> Row:
    """Compares what is no array."""
    note = "" if actual == expected else f"{str(actual)[:60]!r}, golden {str(expected)[:60]!r}"
    return Row(array, Verdict.FAIL if note else Verdict.PASS, float(bool(note)), 0, note)


def table(rows: Iterable[Row]) -> str:
    """The rows as text, one line each, columns aligned."""
    header = ("array", "error", "tolerance", "verdict", "note")
    cells = [header, *((r.array, _number(r.error), _number(r.tolerance), r.verdict.value, r.note) for r in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    lines = ["  ".join([*(c.ljust(w) for c, w in zip(line, widths, strict=False)), line[4]]) for line in cells]
    return "\n".join(line.rstrip() for line in lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
