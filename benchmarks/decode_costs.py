"""The simulated backend's cost model, fitted to measured batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.decode.engine.backends import CostModel


@dataclass(frozen=True)
class Measured:
    """One batch: how much it computed, as the cost model counts it, and what that took."""

    streams: int
    frames: int
    """Mel frames computed, a history computed again included."""
    pairs: int
    """Sum over the streams of new frames times the frames they attend over, past ones included."""
    seconds: float


def fit(batches: Sequence[Measured], holdback_frames: int) -> CostModel:
    """Least squares of the relative error over all batches, no cost below zero.

    Relative, because a batch of one short hop matters as much to a scheduler as one that recomputes ten seconds.
    """
    rows = np.array([(1.0, one.streams, one.frames, one.pairs) for one in batches])
    seconds = np.array([one.seconds for one in batches])
    rows /= seconds[:, None]
    used = list(range(rows.shape[1]))
    while True:  # drop the most negative cost and fit the others again
        costs = np.linalg.lstsq(rows[:, used], np.ones(len(batches)), rcond=None)[0]
        if (costs >= 0).all():
            break
        used.pop(int(np.argmin(costs * np.abs(rows[:, used]).mean(axis=0))))
    found = dict.fromkeys(range(rows.shape[1]), 0.0) | dict(zip(used, costs.tolist(), strict=True))
    batch, stream, frame, pair = (float(f"{found[term]:.4g}") for term in sorted(found))
    return CostModel(batch_s=batch, stream_s=stream, frame_s=frame, holdback_frames=holdback_frames, pair_s=pair)


def errors(costs: CostModel, batches: Sequence[Measured]) -> NDArray[np.float64]:
    """How far the model is from each batch, as a share of what it took."""
    told = np.array([costs.seconds(one.streams, one.frames, one.pairs) for one in batches])
    took = np.array([one.seconds for one in batches])
    return np.asarray((told - took) / took)
