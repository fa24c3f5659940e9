"""The load generator's arithmetic: arrivals, underruns, percentiles."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from cli.bench import TEXT, Load, Outcome, Playback, Report, Target, arrivals, largest_held, percentile, report
from cli.client import ClientError, Refused, Speech


def test_arrivals_are_poisson_and_repeatable() -> None:
    load = Load("text", rate=20.0, seconds=500.0, seed=3)
    times = list(arrivals(load))
    assert times == list(arrivals(load))
    assert times != list(arrivals(Load("text", 20.0, 500.0, seed=4)))
    assert times == sorted(times)
    assert times[-1] < 500
    assert len(times) == pytest.approx(10_000, rel=0.05)
    gaps = [after - before for before, after in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    spread = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert spread == pytest.approx(mean, rel=0.1)  # as for exponential gaps


def test_a_listener_without_audio_has_an_underrun() -> None:
    playback = Playback()
    for now, seconds in ((10.0, 1.0), (10.5, 1.0), (12.5, 1.0), (13.0, 2.0), (15.503, 1.0)):
        playback.take(now, seconds)
    assert playback.underruns == 1
    assert playback.silence == pytest.approx(0.5)


def test_percentiles() -> None:
    assert percentile([], 95) != percentile([], 95)
    assert percentile([3.0], 95) == 3.0
    assert percentile([float(n) for n in range(1, 101)], 95) == 95.0
    assert percentile([2.0, 1.0], 50) == 1.0


def completed(first: float, underruns: int = 0) -> Outcome:
    speech = Speech(sample_rate=24000, samples=240_000, time_to_first_audio=0.0, seconds_spent=5.0)
    return Outcome(100.0, Playback(100.0 + first, 120.0, underruns, 0.5 * underruns), speech)


def test_the_default_text_has_several_sentences() -> None:
    assert TEXT.count(". ") >= 2


def test_a_stream_refused_after_audio_has_failed() -> None:
    refused = Outcome(0.0, Playback(began_at=1.0), error=Refused("every decode worker is full"))
    assert not refused.refused
    assert refused.failure == "cut after its first audio: every decode worker is full"


def test_a_report_counts_refusals_failures_and_underruns() -> None:
    load = Load("text", rate=2.0, seconds=10.0)
    turned_away = [Outcome(0.0, error=Refused("full")), Outcome(0.0, error=ClientError("broken"))]
    figures = report(load, [completed(0.1), completed(0.3, 2), *turned_away])
    assert (figures.asked, figures.refused, figures.failed, figures.streams_with_underrun) == (4, 1, 1, 1)
    assert figures.failure == "broken"
    assert (figures.p50_first_audio, figures.p95_first_audio) == pytest.approx((0.1, 0.3))
    assert figures.underruns_per_stream == 1.0
    assert figures.offered == pytest.approx(20.0)
    assert figures.real_time_factor == 0.5
    assert math.isnan(report(load, []).p95_first_audio)


def test_a_stream_without_audio_has_failed() -> None:
    figures = report(Load("text", rate=2.0, seconds=10.0), [Outcome(100.0)])
    assert (figures.failed, figures.failure) == (1, "no audio arrived")


def test_what_counts_as_held() -> None:
    load, target = Load("text", 1.0, 100.0), Target(p95_first_audio=0.5, silent_streams=0.01)
    calm = [completed(0.2) for _ in range(99)]
    assert target.held(report(load, []))
    assert target.held(report(load, [*calm, completed(0.9, 1)]))
    assert not target.held(report(load, [*calm, completed(0.2, 1), completed(0.2, 1)]))
    assert not target.held(report(load, [completed(0.6)]))
    assert not target.held(report(load, [*calm, Outcome(0.0, error=Refused("full"))]))
    assert not target.held(report(load, [*calm, Outcome(0.0, error=ClientError("broken"))]))


@pytest.mark.parametrize("capacity", [0.07, 1.0, 7.3, 100.0])
async def test_the_search_ends_next_to_the_largest_load(capacity: float) -> None:
    tried: list[float] = []

    async def measure(rate: float) -> Report:
        tried.append(rate)
        return report(Load("text", rate, 10.0), [completed(0.1 if rate <= capacity else 2.0)])

    best = await largest_held(measure, Target(), rate=1.0)
    assert best is not None
    assert capacity / 1.1 <= best.rate <= capacity
    assert len(tried) <= 12


async def test_the_search_gives_up_where_nothing_is_held() -> None:
    async def measure(rate: float) -> Report:
        return report(Load("text", rate, 10.0), [completed(9.0)])

    assert await largest_held(measure, Target(), rate=1.0) is None
