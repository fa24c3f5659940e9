"""The simulated backend's costs: fitted by the benchmark, read from the committed files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.decode_costs import Measured, errors, fit
from services.decode.engine.backends import CostModel

COSTS = Path(__file__).parents[3] / "services" / "decode" / "costs"


def batches(costs: CostModel, noise: float = 0.0) -> list[Measured]:
    """Batches of one to eight streams with hops of one to four chunks after up to ten, timed by `costs`."""
    rng = np.random.default_rng(1)
    made = []
    for streams in (1, 2, 4, 8):
        for chunks in (1, 2, 4):
            for cached in (0, 3, 10):
                frames = streams * 50 * chunks
                pairs = frames * 50 * (cached + chunks)
                took = costs.seconds(streams, frames, pairs) * (1 + noise * rng.standard_normal())
                made.append(Measured(streams, frames, pairs, took))
    return made


def test_the_fit_finds_the_costs_behind_the_figures() -> None:
    true = CostModel(batch_s=0.3, stream_s=0.1, frame_s=0.05, holdback_frames=10, pair_s=4e-5)
    found = fit(batches(true), holdback_frames=10)
    for name in ("batch_s", "stream_s", "frame_s", "pair_s"):
        assert getattr(found, name) == pytest.approx(getattr(true, name), rel=1e-3)
    assert np.abs(errors(found, batches(true))).max() < 1e-3


def test_no_cost_is_negative_whatever_the_noise() -> None:
    true = CostModel(batch_s=0.0, stream_s=0.0, frame_s=0.05, holdback_frames=10, pair_s=0.0)
    found = fit(batches(true, noise=0.05), holdback_frames=10)
    assert min(found.batch_s, found.stream_s, found.frame_s, found.pair_s) >= 0
    assert np.abs(errors(found, batches(true))).max() < 0.1


def test_the_committed_cost_files_can_be_read() -> None:
    paths = sorted(COSTS.glob("*.json"))
    assert paths
    assert all(CostModel.read(path).frame_s > 0 for path in paths)


def test_a_cost_file_may_state_where_it_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text('{"measured": "one thread of a small machine", "batch_s": 1, "stream_s": 2, "frame_s": 3}')
    assert CostModel.read(path) == CostModel(batch_s=1, stream_s=2, frame_s=3)
    path.write_text('{"batch_s": "fast", "stream_s": 2, "frame_s": 3}')
    with pytest.raises(ValueError, match=r"costs\.json must be a JSON object of numbers"):
        CostModel.read(path)
