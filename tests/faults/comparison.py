"""Compares a recorded stream with the audio of an undisturbed run, and prints the results per kind of fault."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.faults.conversation import TIMED_OUT, Recording

LONG_GAP = 1.0
"""Seconds; longer gaps and silences are counted in the table."""
FULL_SCALE = 32768


@dataclass(frozen=True)
class Comparison:
    """How one stream differs from the undisturbed audio. Counts are in samples, times in seconds."""

    lost: int
    repeated: int
    wrong: int
    """Samples that differ by more than the tolerance."""
    worst: int
    """Largest difference, in steps of 16-bit samples."""
    disordered: int
    """Chunks whose sequence number is not the next one."""
    gap: float
    """Longest time between two chunks."""
    silence: float
    """Longest time that a player with a small buffer had nothing to play."""
    resumed: int
    """Moves to another worker that the stream reported."""
    code: str
    details: str


def compare(recording: Recording, undisturbed: NDArray[np.int32], tolerance: float) -> Comparison:
    """Compare sample by sample; `tolerance` is a share of full scale.

    Lost and repeated samples are counted by the chunks' own positions. A stream that ended with an error may be short,
    so its length is not compared.
    """
    lost = repeated = disordered = position = 0
    for number, chunk in enumerate(recording.chunks):
        lost += max(0, chunk.first_sample - position)
        repeated += max(0, position - chunk.first_sample)
        disordered += chunk.sequence != number
        position = chunk.first_sample + chunk.samples
    samples = recording.samples
    if recording.code == "OK":
        lost += max(0, len(undisturbed) - len(samples))
        repeated += max(0, len(samples) - len(undisturbed))
    common = min(len(samples), len(undisturbed))
    difference = np.abs(samples[:common] - undisturbed[:common])
    return Comparison(
        lost=lost,
        repeated=repeated,
        wrong=int((difference > tolerance * FULL_SCALE).sum()),
        worst=int(difference.max(initial=0)),
        disordered=disordered,
        gap=round(recording.longest_gap(), 3),
        silence=round(recording.longest_silence(), 3),
        resumed=len(recording.resumed),
        code=recording.code,
        details=recording.details,
    )


def damaged(row: Mapping[str, Any]) -> bool:
    """Return whether a row shows changed audio, a stream that did not end, or a later request that failed.

    A stream that ended early with an error is not damaged: the client received the error and correct audio.
    """
    if "next" in row:
        return True
    return row["code"] == TIMED_OUT or any(row[name] for name in ("lost", "repeated", "wrong", "disordered"))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return all rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return one line per kind of fault, then every error status with its count.

    `moved gap` is the median, over the streams that moved, of the longest time between two chunks.
    """
    rows = list(rows)
    columns = (
        "streams",
        "moved",
        "errors",
        "lost",
        "repeated",
        "wrong",
        "worst",
        "moved gap",
        f"gap>{LONG_GAP:g}s",
        "silent",
        "next",
    )
    lines = [f"{'kind':26}" + "".join(f"{column:>10}" for column in columns)]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        streams = [row for row in rows if row["kind"] == kind and "next" not in row]
        counts = (
            len(streams),
            sum(row["resumed"] > 0 for row in streams),
            sum(row["code"] != "OK" for row in streams),
            sum(row["lost"] for row in streams),
            sum(row["repeated"] for row in streams),
            sum(row["wrong"] for row in streams),
            max((row["worst"] for row in streams), default=0),
            _median(row["gap"] for row in streams if row["resumed"] > 0),
            sum(row["gap"] > LONG_GAP for row in streams),
            sum(row["silence"] > LONG_GAP for row in streams),
            sum(row["kind"] == kind and "next" in row for row in rows),
        )
        lines.append(f"{kind:26}" + "".join(f"{count:>10}" for count in counts))
    failures = Counter((row.get("next") or row["code"], row["details"][:90]) for row in rows)
    lines += [f"  {count} x {code}: {details}" for (code, details), count in failures.items() if code != "OK"]
    return "\n".join(lines)


def _median(gaps: Iterable[float]) -> str:
    found = list(gaps)
    return f"{median(found):.2f}" if found else "-"
