"""The figures of a load: percentiles, playback, what counts as held, and how they are shown."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from cli.bench.apis import SPLIT, Answer
from cli.bench.generator import Outcome, Run
from cli.bench.load import Load, text_load
from cli.bench.output import HEADER, PlotError, as_json, line, plot, table
from cli.bench.playback import Playback
from cli.bench.report import Report, Target, percentile, report
from cli.bench.search import largest_held
from cli.client import ClientError, Refused

LOAD = text_load("text", rate=2.0, seconds=10.0)
RATE = 24_000


def test_a_load_without_requests_says_so_and_has_no_figures() -> None:
    shown = line(report(Run(LOAD, [])))
    assert "nan" not in shown
    assert "no request was due within --seconds" in shown


def test_a_listener_without_audio_has_an_underrun() -> None:
    playback = Playback()
    for now, seconds in ((10.0, 1.0), (10.5, 1.0), (12.5, 1.0), (13.0, 2.0), (15.503, 1.0), (16.6, 1.0)):
        playback.take(now, seconds)
    assert playback.underruns == 2
    assert playback.silence == pytest.approx(0.597)
    assert playback.worst == pytest.approx(0.5)


def test_audible_audio_is_heard_when_it_is_played_not_when_it_arrives() -> None:
    silence, speech = np.zeros(RATE, "<i2"), np.full(RATE, 3000, "<i2")
    playback = Playback()
    playback.take_samples(10.0, silence.tobytes(), RATE)
    assert playback.heard_at is None
    playback.take_samples(10.1, np.concatenate([silence[: RATE // 2], speech]).tobytes(), RATE)
    assert playback.heard_at == pytest.approx(11.5)
    playback.take_samples(10.2, speech.tobytes(), RATE)
    assert playback.heard_at == pytest.approx(11.5)
    noise = np.full(RATE, 90, "<i2")  # below −50 dBFS
    quiet = Playback()
    quiet.take_samples(10.0, noise.tobytes(), RATE)
    assert quiet.heard_at is None


def test_percentiles() -> None:
    assert math.isnan(percentile([], 95))
    assert percentile([3.0], 95) == 3.0
    assert percentile([float(n) for n in range(1, 101)], 95) == 95.0
    assert percentile([2.0, 1.0], 50) == 1.0


def completed(first: float, gap: float = 0.0) -> Outcome:
    """An utterance of 10 s that was due at 100 and ended after 5 s, with one gap if `gap` is not zero."""
    playback = Playback(100.0 + first, 100.5 + first, 120.0, 10.0, int(gap > 0), gap, gap)
    return Outcome(100.0, Answer(100.0 + first / 2, playback, dict.fromkeys(SPLIT, first)), ended_at=105.0)


def failed(error: ClientError, playback: Playback | None = None) -> Outcome:
    return Outcome(100.0, Answer(playback=playback or Playback()), error, 101.0)


def figures(*outcomes: Outcome, load: Load = LOAD, lag: float = 0.0) -> Report:
    return report(Run(load, outcomes, [lag], 20.0))


def test_a_stream_refused_after_audio_has_failed() -> None:
    refused = failed(Refused("every decode worker is full"), Playback(began_at=101.0, seconds=1.0))
    assert not refused.refused
    assert refused.failure == "cut after its first audio: every decode worker is full"


def test_a_report_counts_refusals_failures_and_underruns() -> None:
    one = figures(completed(0.1), completed(0.3, 0.15), failed(Refused("full")), failed(ClientError("broken")))
    assert (one.asked, one.refused, one.failed, one.streams_with_underrun) == (4, 1, 1, 1)
    assert one.failure == "broken"
    assert (one.first_audio.p50, one.first_audio.p95) == pytest.approx((0.1, 0.3))
    assert (one.first_byte.p50, one.first_audible.p50) == pytest.approx((0.05, 0.6))
    assert one.continuity == {50: 0.5, 100: 0.5, 200: 1.0}
    assert one.underruns_per_stream == 0.5
    assert one.offered == pytest.approx(20.0)
    assert (one.real_time_factor, one.audio_per_second) == (0.5, 1.0)
    assert one.split["decode"] == pytest.approx(0.1)
    assert math.isnan(figures().first_audio.p95)


def test_a_closed_load_reports_the_rate_that_it_reached() -> None:
    one = figures(completed(0.1), completed(0.1), load=Load(streams=4))
    assert (one.load, one.rate, one.offered) == ("4 at once", 0.1, 1.0)


def test_a_stream_without_audio_has_failed() -> None:
    one = figures(Outcome(100.0))
    assert (one.failed, one.failure) == (1, "no audio arrived")


def test_a_run_in_which_the_generator_lagged_is_marked() -> None:
    late, prompt = figures(completed(0.1), lag=0.05), figures(completed(0.1), lag=0.001)
    assert (late.valid, prompt.valid) == (False, True)
    assert "invalid" in line(late)
    assert "invalid" in table([late])
    assert "invalid" not in line(prompt) + table([prompt])
    assert [one["valid"] for one in json.loads(as_json([late, prompt]))] == [False, True]


def test_what_counts_as_held() -> None:
    target = Target(p95_first_audio=0.5, silent_streams=0.01)
    calm = [completed(0.2) for _ in range(99)]
    assert target.held(figures())
    assert target.held(figures(*calm, completed(0.9, 0.1)))
    assert not target.held(figures(*calm, completed(0.2, 0.1), completed(0.2, 0.1)))
    assert not target.held(figures(completed(0.6)))
    assert not target.held(figures(*calm, failed(Refused("full"))))
    assert not target.held(figures(*calm, failed(ClientError("broken"))))


@pytest.mark.parametrize("capacity", [0.07, 1.0, 7.3, 100.0])
async def test_the_search_ends_next_to_the_largest_load(capacity: float) -> None:
    tried: list[float] = []

    async def measure(rate: float) -> Report:
        tried.append(rate)
        return figures(completed(0.1 if rate <= capacity else 2.0), load=text_load("text", rate, 10.0))

    best = await largest_held(measure, Target(), rate=1.0)
    assert best is not None
    assert capacity / 1.1 <= best.rate <= capacity
    assert len(tried) <= 12


async def test_the_search_gives_up_where_nothing_is_held() -> None:
    async def measure(rate: float) -> Report:
        return figures(completed(9.0), load=text_load("text", rate, 10.0))

    assert await largest_held(measure, Target(), rate=1.0) is None


def test_the_table_has_a_cell_for_every_column_and_json_no_invalid_number() -> None:
    reports = [figures(completed(0.1), completed(0.3, 0.15)), figures(failed(ClientError("broken")))]
    rows = [row for row in table(reports).splitlines() if row.startswith("|")]
    first = rows[: 2 + len(reports)]
    assert {row.count("|") for row in first} == {first[0].count("|")}
    assert "100 / 300 / 300" in rows[2]
    assert "broken" in table(reports)
    assert json.loads(as_json(reports))[1]["first_audio"] == {"p50": None, "p95": None, "p99": None}
    assert len(line(reports[0]).splitlines()[0]) == len(HEADER)


def test_a_picture_has_both_curves_and_the_ending_decides_its_format(tmp_path: Path) -> None:
    loads = [figures(completed(0.1), load=text_load("text", rate, 10.0)) for rate in (1.0, 2.0)]
    plot({"ours": loads, "theirs": loads}, tmp_path / "loads.svg", top=1.0)
    drawn = (tmp_path / "loads.svg").read_text(encoding="utf-8")
    assert "<svg" in drawn
    plot({"ours": loads}, tmp_path / "loads.png")
    assert (tmp_path / "loads.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(PlotError, match="words"):
        plot({"ours": loads}, tmp_path / "loads.words")
