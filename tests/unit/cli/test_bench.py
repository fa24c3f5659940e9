"""The load generator's arithmetic: arrivals, a listener's silence, percentiles."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from cli.bench import Heard, Load, Playback, arrivals, percentile, report
from cli.client import Speech


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


def test_a_listener_without_audio_hears_silence() -> None:
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


def test_a_report_counts_refusals_and_underruns() -> None:
    def heard(first: float, underruns: int) -> Heard:
        speech = Speech(sample_rate=24000, samples=240_000, time_to_first_audio=first, seconds_spent=5.0)
        return Heard(0.0, speech, Playback(20.0, underruns, 0.5 * underruns))

    load = Load("text", rate=2.0, seconds=10.0)
    figures = report(load, [heard(0.1, 0), heard(0.3, 2), Heard(0.0, error="full")])
    assert (figures.asked, figures.refused, figures.streams_with_underrun) == (3, 1, 1)
    assert (figures.p50_first_audio, figures.p95_first_audio) == (0.1, 0.3)
    assert figures.underruns_per_stream == 1.0
    assert figures.offered == pytest.approx(20.0)
    assert figures.real_time_factor == 0.5
    assert math.isnan(report(load, []).p95_first_audio)
