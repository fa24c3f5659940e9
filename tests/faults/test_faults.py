"""Runs a few of the faults of `make faults`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.faults.harness import FAULTS, Stage, break_often, differences, summary


@pytest.mark.parametrize("stage", FAULTS)
async def test_utterances_survive_broken_workers(tmp_path: Path, stage: Stage) -> None:
    outcomes = await break_often("simulated", stage, 5, tmp_path, seed=1)
    assert len(outcomes) == 5
    assert not any(outcome.wrong for outcome in outcomes), summary("simulated", outcomes)
    assert sum(outcome.moved for outcome in outcomes) > 0


def test_differences_are_reported() -> None:
    whole = np.arange(100, dtype=np.float32)
    assert differences(0, whole, whole, 0.0) == []
    assert "99 samples instead of 100" in differences(0, whole[1:], whole, 1.0)[0]
    assert "differs by 1" in differences(0, whole + 1, whole, 0.5)[0]
