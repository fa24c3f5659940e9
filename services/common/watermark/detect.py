"""Finds the mark in audio whose beginning, key and payload are unknown.

The search tries every alignment: 12 positions of the block grid, 64 of the period, all payloads, in windows of several
lengths. Its statistic is z = Σ r·c / √(Σ r²): r are the residuals of the cells' log energies, which do not depend on
the key, and c the chips, whose signs are independent and even for whoever does not know the key. For audio without this
key's mark, Hoeffding's inequality gives P(z ≥ t) ≤ exp(−t²/2) for one alignment and payload, whatever the audio; the
p-value is this bound times the number of all that were tried.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from services.common.watermark.codebook import (
    BAND_BINS,
    BANDS,
    BLOCK,
    FIRST_BIN,
    LAST_BIN,
    PERIOD,
    SAMPLE_RATE,
    SYMBOLS,
    WINDOW,
    Codebook,
    codebook,
)

GRID_STEP = 40
"""Samples between two tried positions of the block grid."""
WINDOW_SECONDS = (4.0, 16.0)
"""Lengths of the windows, each half of its length after the one before; the whole audio is searched as well."""
LEAST_SECONDS = 0.5
LARGEST_RESIDUAL = 2.5
"""Residuals in nepers of energy are cut here: a few large ones carry no more of the mark than others."""
FLOOR_QUANTILE, FLOOR_FACTOR = 0.1, 30.0
"""A band's noise is taken as this quantile of its energy over time; cells of this many times its energy count half."""
QUIETEST = 1e-4
"""Cells this far below the loudest cell count half, too."""
P_VALUE = 1e-6
"""Largest p-value that counts as found."""


class TooShort(ValueError):
    """The audio is too short to be searched."""


@dataclass(frozen=True)
class Found:
    """The best match of a window. Times in seconds from the audio's beginning."""

    start: float
    end: float
    key: int
    payload: int
    z: float
    p_value: float


@dataclass(frozen=True)
class Detection:
    """The result of a search."""

    best: Found
    spans: Sequence[Found]
    """Where a mark was found: windows that overlap and agree are joined."""

    @property
    def marked(self) -> bool:
        return self.best.p_value <= P_VALUE


def detect(samples: NDArray[np.floating], keys: Mapping[int, bytes]) -> Detection:
    """Search `samples` [n], mono at 24 kHz, for the mark of any of `keys`. Raises TooShort below half a second.

    One second takes about 50 ms of processor time for each key.
    """
    if len(samples) < LEAST_SECONDS * SAMPLE_RATE:
        raise TooShort(f"the audio has {len(samples) / SAMPLE_RATE:.2f} s; at least {LEAST_SECONDS} s are needed")
    residuals = [_residuals(samples[offset:]) for offset in range(0, BLOCK, GRID_STEP)]
    windows = list(_windows(len(residuals[-1])))
    tried = len(windows) * len(keys) * len(residuals) * PERIOD * SYMBOLS**2
    found = [
        _search(residuals, begin, end, number, codebook(key), tried)
        for number, key in keys.items()
        for begin, end in windows
    ]
    best = max(found, key=lambda one: one.z)
    return Detection(best, _joined([one for one in found if one.p_value <= P_VALUE]))


def _residuals(samples: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return how much louder each cell is than its neighbours, in nepers [blocks, BANDS], less where noise is."""
    count = len(samples) // BLOCK
    blocks = samples[: count * BLOCK].reshape(count, BLOCK)
    spectrum = np.fft.rfft(blocks * WINDOW, axis=1)[:, FIRST_BIN:LAST_BIN]
    energy = (np.abs(spectrum) ** 2).reshape(count, BANDS, BAND_BINS).sum(axis=2)
    loudest = max(1e-12, float(energy.max(initial=0.0)))
    level = np.log(energy + 1e-6 * loudest)
    around = np.pad(level, 1, mode="edge")
    mean = (around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:]) / 4
    residual = np.clip(level - mean, -LARGEST_RESIDUAL, LARGEST_RESIDUAL)
    noise = FLOOR_FACTOR * np.quantile(energy, FLOOR_QUANTILE, axis=0, keepdims=True) if count else 0.0
    return np.asarray(residual * energy / (energy + noise + QUIETEST * loudest), np.float32)


def _windows(blocks: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of blocks to search."""
    yield 0, blocks
    for seconds in WINDOW_SECONDS:
        length = round(seconds * SAMPLE_RATE / BLOCK)
        if length < blocks:
            yield from ((begin, min(begin + length, blocks)) for begin in range(0, blocks - length // 2, length // 2))


def _search(
    residuals: Sequence[NDArray[np.float32]], begin: int, end: int, number: int, book: Codebook, tried: int
) -> Found:
    """Return the best alignment and payload of one key in blocks `begin` to `end`."""
    z, payload = 0.0, 0
    for grid in residuals:
        part = grid[begin:end]
        folded = np.zeros((PERIOD, BANDS), np.float32)
        np.add.at(folded, np.arange(len(part)) % PERIOD, part)
        norm = float(np.sqrt((folded**2).sum()))
        if norm == 0.0:
            continue
        shifted = np.stack([np.roll(folded, shift, axis=0).reshape(-1) for shift in range(PERIOD)])
        sums = [shifted[:, cells] @ signs.T for cells, signs in zip(book.cells, book.signs, strict=True)]
        scores = (sums[0].max(axis=1) + sums[1].max(axis=1)) / norm
        shift = int(scores.argmax())
        if scores[shift] > z:
            z = float(scores[shift])
            payload = SYMBOLS * int(sums[0][shift].argmax()) + int(sums[1][shift].argmax())
    p_value = min(1.0, math.exp(min(0.0, math.log(tried) - z * z / 2)))
    return Found(begin * BLOCK / SAMPLE_RATE, end * BLOCK / SAMPLE_RATE, number, payload, z, p_value)


def _joined(found: Sequence[Found]) -> list[Found]:
    """Return spans: the shortest windows, joined where they overlap and agree, and longer ones where no shorter is."""
    spans: list[Found] = []
    shortest = min((one.end - one.start for one in found), default=0.0)
    for one in sorted(found, key=lambda one: (one.end - one.start > shortest, one.start)):
        same = [each for each in spans if (each.key, each.payload) == (one.key, one.payload)]
        over = [each for each in same if one.start <= each.end and each.start <= one.end]
        if not over:
            spans.append(one)
        elif one.end - one.start <= shortest:
            best = max((*over, one), key=lambda each: each.z)
            start, end = min(each.start for each in (*over, one)), max(each.end for each in (*over, one))
            spans = [each for each in spans if each not in over]
            spans.append(replace(best, start=start, end=end))
    return sorted(spans, key=lambda one: one.start)
