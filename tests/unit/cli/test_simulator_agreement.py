"""The benchmarks of the real stack on simulated backends: which runs count, and what is concluded."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from functools import cache

import pytest

from benchmarks import scale_out, simulator_agreement
from benchmarks.simulator_agreement import AGREES, DISAGREES, NO_VERDICT, Row, verdict, without_lag
from cli.bench.apis import Answer
from cli.bench.generator import Outcome, Run
from cli.bench.load import text_load
from cli.bench.playback import Playback
from cli.bench.report import Report, Spread, report


@cache
def figures() -> Report:
    outcomes = [Outcome(10.0, Answer(10.2, Playback(10.2, 10.3, 14.2, 4.0)), ended_at=12.0)] * 20
    return report(Run(text_load("text", rate=5.0, seconds=4.0), outcomes, (0.002,), 8.0))


def row(*, p95: float = 0.2, goodput: float = 10.0, valid: bool = True, streams: float = 20.0) -> Row:
    """A load whose real first audio is 0.2 s and whose real goodput is 10 s of audio per second."""
    simulated = replace(figures(), first_audio=Spread(0.2, p95, p95), audio_per_second=goodput)
    return Row(streams, figures(), simulated, valid, 0.5)


def test_each_figure_must_agree_and_the_worst_is_named() -> None:
    said, status = verdict([row(), row(p95=0.21, streams=40.0)], 0.1)
    assert status == AGREES
    assert "all 6 figures of 2 loads" in said
    assert "first audio p95 at 40 streams, 1.05" in said
    said, status = verdict([row(), row(p95=0.24), row(goodput=8.5, streams=60.0)], 0.1)
    assert status == DISAGREES
    assert "first audio p95 at 20 streams 1.20; goodput at 60 streams 0.85" in said
    assert "p50" not in said
    assert verdict([row(p95=math.nan)], 0.1)[1] == DISAGREES


def test_a_run_with_lag_proves_neither() -> None:
    assert verdict([row(p95=0.4, valid=False)], 0.1)[1] == NO_VERDICT
    said, status = verdict([row(), row(valid=False, streams=60.0)], 0.1)
    assert status == NO_VERDICT
    assert "at 60 streams" in said
    assert verdict([row(valid=False), row(p95=0.4)], 0.1)[1] == DISAGREES
    assert verdict([], 0.1)[1] == NO_VERDICT


def test_a_load_is_repeated_until_the_load_generator_keeps_up(capsys: pytest.CaptureFixture[str]) -> None:
    def last(lags: list[float], attempts: int) -> tuple[Row, int]:
        """Return the last row and the number of runs, whose load generator lags so."""
        runs = iter(lags)

        async def run() -> Report:
            return replace(figures(), lag=next(runs))

        return asyncio.run(without_lag(run, 20.0, figures(), attempts, 0.02)), len(lags) - len(list(runs))

    found, runs = last([0.3, 0.05, 0.004, 0.001], 4)
    assert (found.valid, found.real.lag, runs) == (True, 0.004, 3)
    found, runs = last([0.3, 0.05, 0.004], 2)
    assert (found.valid, runs) == (False, 2)
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 5
    assert all(len(line.split("|")) == 2 + len(simulator_agreement.HEADER) for line in shown)
    assert sum("(too much)" in line for line in shown) == 4
    assert "200 ms, 200 ms: 1.00 | 10.0, 10.0: 1.00" in shown[0]


def test_throughput_is_compared_with_one_worker_and_processor_time_becomes_streams_per_core() -> None:
    found = replace(figures(), audio_per_second=36.0, seconds=10.0, lag=0.001)
    cells = scale_out.Row(4, 96, found, llm=3.6, gateway=7.2, decode=1.8, client=0.9, busy=0.5).cells(one_worker=10.0)
    assert len(cells) == len(scale_out.HEADER)
    assert cells[:4] == ["4", "96", "36.0", "3.60"]
    assert cells[4:8] == ["10.0 ms", "100", "20.0 ms", "50"]
    assert cells[8:] == ["5.0 ms", "2.5 ms, 1 ms", "50%"]
