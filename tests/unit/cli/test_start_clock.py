"""The time limit of a start follows the processor time that a busy machine gives to the process."""

from __future__ import annotations

import os

import pytest

from cli.local.start_clock import StartClock, processor_seconds


@pytest.mark.parametrize(
    ("share", "counted"),
    [
        pytest.param(1.0, 100.0, id="alone on the machine"),
        pytest.param(4.0, 100.0, id="several threads"),
        pytest.param(0.25, 25.0, id="one of four programs that compute"),
        pytest.param(0.01, 100.0, id="waits for a disk or for nothing"),
    ],
)
def test_time_without_a_processor_is_not_counted(share: float, counted: float) -> None:
    clock = StartClock(1000.0, 7.0)
    polls = range(1, 1001)
    seconds = [clock.seconds(1000.0 + 0.1 * poll, 7.0 + round(0.1 * poll * share, 2)) for poll in polls]
    assert seconds[-1] == pytest.approx(counted, rel=0.02)


def test_a_process_that_stops_computing_runs_into_its_limit() -> None:
    clock = StartClock(0.0, 0.0)
    assert clock.seconds(60.0, 15.0) == pytest.approx(15.0)
    assert clock.seconds(120.0, 15.0) == pytest.approx(75.0)


def test_the_processor_time_of_a_process() -> None:
    assert 0.0 < processor_seconds(os.getpid()) <= sum(os.times()[:2]) + 0.02
    assert processor_seconds(None) == 0.0
