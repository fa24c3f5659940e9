"""The figures of one load."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cli.bench.apis import SPLIT
from cli.bench.generator import Outcome, Run

LAG_SECONDS = 0.02
"""A run whose 99th percentile of lag is larger measures the load generator instead of the server."""
GAPS_MS = (50, 100, 200)
"""C50, C100 and C200: the share of streams in which no gap between chunks was longer."""


@dataclass(frozen=True)
class Spread:
    """Percentiles of a time in seconds; NaN without values."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(*(percentile(values, percent) for percent in (50, 95, 99)))


@dataclass(frozen=True)
class Report:
    """Times in seconds, of the completed requests; NaN without any."""

    load: str
    """Name of the load."""
    rate: float
    """Requests per second; in a closed load, those that ended."""
    seconds: float
    """From the first request to the last answer."""
    asked: int
    refused: int
    """Refused for load, before any audio and with a hint when to retry."""
    failed: int
    """Ended by any other error, or refused after some audio."""
    first_byte: Spread
    first_audio: Spread
    """Until the first samples arrived: a player can start."""
    first_audible: Spread
    """Until a player that started then played a sample that is not silence."""
    underruns_per_stream: float
    streams_with_underrun: int
    continuity: dict[int, float]
    """C50, C100 and C200, by their milliseconds."""
    p95_silence: float
    real_time_factor: float
    """Median of the seconds until a stream's end per second of its audio."""
    audio_per_second: float
    """Seconds of audio of completed requests per second of the run."""
    audio_seconds: float
    """Mean length of an utterance."""
    split: dict[str, float]
    """Medians of the server's account of the first audio; empty if it gave none."""
    lag: float
    """99th percentile of the load generator's own lateness."""
    failure: str = ""
    """The error of the first request that failed."""

    @property
    def offered(self) -> float:
        """Mean number of utterances that play at once."""
        return self.rate * self.audio_seconds

    @property
    def valid(self) -> bool:
        """Whether the load generator kept up, so that the figures are the server's."""
        return not self.lag > LAG_SECONDS


@dataclass(frozen=True)
class Target:
    """When a load is held: no request is refused or fails, first audio is in time, and underruns are rare."""

    p95_first_audio: float = 0.8
    silent_streams: float = 0.01
    """Share of the streams that may have an underrun."""

    def held(self, one: Report) -> bool:
        """Whether this load was held; a load without any utterance was."""
        if not one.asked:
            return True
        in_time = one.first_audio.p95 <= self.p95_first_audio
        rare = one.streams_with_underrun <= self.silent_streams * one.asked
        return one.refused + one.failed == 0 and in_time and rare


def report(run: Run) -> Report:
    """Return the figures of a run."""
    completed = [one for one in run.outcomes if one.completed]
    failures = [one.failure for one in run.outcomes if one.failure is not None]
    audio = sum(one.audio_seconds for one in completed)

    def spread(at: Callable[[Outcome], float | None]) -> Spread:
        return Spread.of([one.after(at(one)) for one in completed])

    playbacks = [one.answer.playback for one in completed]
    splits = [one.answer.split for one in completed if one.answer.split]
    return Report(
        load=run.load.name,
        rate=run.load.rate or _ratio(len(completed), run.seconds),
        seconds=run.seconds,
        asked=len(run.outcomes),
        refused=sum(one.refused for one in run.outcomes),
        failed=len(failures),
        first_byte=spread(lambda one: one.answer.first_byte_at),
        first_audio=spread(lambda one: one.answer.playback.began_at),
        first_audible=spread(lambda one: one.answer.playback.heard_at),
        underruns_per_stream=_ratio(sum(one.underruns for one in playbacks), len(playbacks)),
        streams_with_underrun=sum(one.underruns > 0 for one in playbacks),
        continuity={gap: _ratio(sum(one.worst <= gap / 1000 for one in playbacks), len(playbacks)) for gap in GAPS_MS},
        p95_silence=percentile([one.silence for one in playbacks], 95),
        real_time_factor=percentile([one.real_time_factor for one in completed], 50),
        audio_per_second=_ratio(audio, run.seconds),
        audio_seconds=_ratio(audio, len(completed)),
        split={part: percentile([one[part] for one in splits], 50) for part in SPLIT} if splits else {},
        lag=percentile(run.lags, 99),
        failure=next(iter(failures), ""),
    )


def _ratio(value: float, of: float) -> float:
    return value / of if of else math.nan


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that `percent` of all do not exceed; NaN without values."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)]
