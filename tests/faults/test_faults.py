"""Runs a few of the faults of `make faults`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.faults.harness import FAULTS, FaultStack, Stage, differences, summary

MOST_FAULTS = 20


@pytest.mark.parametrize("stage", FAULTS)
async def test_utterances_survive_broken_workers(tmp_path: Path, stage: Stage) -> None:
    async with FaultStack("simulated", stage, tmp_path, seed=1) as stack:
        outcomes = [await stack.run(fault) for fault in FAULTS[stage]]
        # The moments are random; on a slow machine all utterances may have ended before.
        while not any(outcome.moved for outcome in outcomes) and len(outcomes) < MOST_FAULTS:
            outcomes.append(await stack.run("kill"))
    assert not any(outcome.wrong for outcome in outcomes), summary("simulated", outcomes)
    assert any(outcome.moved for outcome in outcomes)


def test_differences_are_reported() -> None:
    whole = np.arange(100, dtype=np.float32)
    assert differences(0, whole, whole, 0.0) == []
    assert "99 samples instead of 100" in differences(0, whole[1:], whole, 1.0)[0]
    assert "differs by 1" in differences(0, whole + 1, whole, 0.5)[0]
