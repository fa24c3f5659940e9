"""Fits the cost model of the simulated backend to measured batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.decode.engine.backends import CostModel


@dataclass(frozen=True)
class Measured:
    """One batch: its work, as the cost model counts it, and its time."""

    streams: int
    frames: int
    """Mel frames computed, including a recomputed history."""
    pairs: int
    """Sum over the streams of new frames times the frames they attend to, including past ones."""
    seconds: float


def fit(batches: Sequence[Measured], holdback_frames: int) -> CostModel:
    """Minimise the squared relative error over all batches, with no cost below zero.

    The error is relative because a batch of one short hop is as important to a scheduler as one that recomputes ten
    seconds.
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
    """Return the model's error for each batch, relative to the measured time."""
    modelled = np.array([costs.seconds(one.streams, one.frames, one.pairs) for one in batches])
    measured = np.array([one.seconds for one in batches])
    return np.asarray((modelled - measured) / measured)
