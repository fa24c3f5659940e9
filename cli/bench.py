"""Open-loop load on a gateway: utterances arrive as a Poisson process, whether or not the ones before have ended.

A closed loop waits for slow answers before it asks again and so hides them. Here every time counts from the instant at
which the utterance was due to be asked for, also when the generator itself came late to it. `offered` streams means
that, on average, so many utterances would be playing at once if each began playing when it was due.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from cli.client import ClientError, Refused, Speech, speak
from cli.say import make_config
from lighttts.v1.audio_pb2 import AudioChunk

GAP_SECONDS = 0.005
"""Silence shorter than this nobody hears, and timers are no better."""
MOST_LOADS = 20
"""A search for the largest load ends after so many."""


@dataclass(frozen=True)
class Load:
    """What to offer: utterances of `text` at `rate` per second for `seconds`, by a generator seeded with `seed`."""

    text: str
    rate: float
    seconds: float
    voice: str | None = None
    seed: int = 0


@dataclass
class Playback:
    """A listener who plays from the first chunk on: how often and how long they had nothing to hear."""

    began_at: float | None = None
    """When the first chunk came."""
    ends_at: float = 0.0
    """When the audio so far will have been heard."""
    underruns: int = 0
    silence: float = 0.0

    def take(self, now: float, seconds: float) -> None:
        """`seconds` of audio arrive at `now`."""
        gap = now - self.ends_at
        if self.began_at is None:
            self.began_at = now
        elif gap > GAP_SECONDS:
            self.underruns += 1
            self.silence += gap
        self.ends_at = max(now, self.ends_at) + seconds


@dataclass
class Heard:
    """One utterance of a load."""

    due_at: float
    """When it was to be asked for."""
    playback: Playback = field(default_factory=Playback)
    speech: Speech | None = None
    """None when it did not come to its end."""
    error: ClientError | None = None

    @property
    def first_audio(self) -> float:
        """Seconds until it could be heard; endless when it never was."""
        return math.inf if self.playback.began_at is None else self.playback.began_at - self.due_at


@dataclass(frozen=True)
class Report:
    """What listeners had of one load. Times in seconds, of the utterances that were spoken; NaN where none was."""

    rate: float
    asked: int
    refused: int
    """Turned away for load, at once and with a retry hint."""
    failed: int
    """Ended by any other error."""
    p50_first_audio: float
    p95_first_audio: float
    underruns_per_stream: float
    streams_with_underrun: int
    p95_silence: float
    real_time_factor: float
    """Median; below 1 the system keeps up."""
    audio_seconds: float
    """Mean length of an utterance."""
    failure: str = ""
    """What the first of the failed ones was told."""

    @property
    def offered(self) -> float:
        """Utterances that play at once, on average."""
        return self.rate * self.audio_seconds


@dataclass(frozen=True)
class Target:
    """When a load counts as held: nobody turned away, first audio in time, hardly anybody hears silence."""

    p95_first_audio: float = 0.8
    silent_streams: float = 0.01
    """Share of the streams that may have an underrun."""

    def held(self, one: Report) -> bool:
        """Whether this load was held; one without any utterance was."""
        if not one.asked:
            return True
        in_time = one.p95_first_audio <= self.p95_first_audio
        return (
            one.refused + one.failed == 0 and in_time and one.streams_with_underrun <= self.silent_streams * one.asked
        )


def arrivals(load: Load) -> Iterator[float]:
    """When utterances are asked for: exponential gaps, seconds from the start, within `load.seconds`."""
    clock = random.Random(load.seed)
    at = clock.expovariate(load.rate)
    while at < load.seconds:
        yield at
        at += clock.expovariate(load.rate)


async def offer(server: str, load: Load) -> list[Heard]:
    """Asks for every utterance in its time and waits for all of them. A refusal is a result, not an error."""
    started = time.monotonic()
    tasks = []
    for number, at in enumerate(arrivals(load)):
        await asyncio.sleep(max(0.0, started + at - time.monotonic()))
        tasks.append(asyncio.create_task(_listen(server, load, number, started + at)))
    return list(await asyncio.gather(*tasks))


async def _listen(server: str, load: Load, number: int, due_at: float) -> Heard:
    heard = Heard(due_at)

    def take(chunk: AudioChunk) -> None:
        heard.playback.take(time.monotonic(), len(chunk.pcm) / 2 / chunk.sample_rate)

    config = make_config(load.voice, None, None, load.seed + number, 1.0)
    try:
        heard.speech = await speak(server, config, load.text, take)
    except ClientError as error:
        heard.error = error
    return heard


def report(load: Load, heard: Sequence[Heard]) -> Report:
    """The figures of a load."""
    spoken = [(one, one.speech) for one in heard if one.speech is not None and one.speech.samples]
    first = [one.first_audio for one, _ in spoken]
    played = [one.playback for one, _ in spoken]
    refused = sum(isinstance(one.error, Refused) for one in heard)
    silent = [one for one in heard if one.playback.began_at is None or one.error is not None]
    failures = [str(one.error or "no audio came") for one in silent if not isinstance(one.error, Refused)]
    return Report(
        rate=load.rate,
        asked=len(heard),
        refused=refused,
        failed=len(failures),
        p50_first_audio=percentile(first, 50),
        p95_first_audio=percentile(first, 95),
        underruns_per_stream=sum(one.underruns for one in played) / len(played) if played else math.nan,
        streams_with_underrun=sum(one.underruns > 0 for one in played),
        p95_silence=percentile([one.silence for one in played], 95),
        real_time_factor=percentile([speech.real_time_factor for _, speech in spoken], 50),
        audio_seconds=sum(speech.audio_seconds for _, speech in spoken) / len(spoken) if spoken else math.nan,
        failure=failures[0] if failures else "",
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of all do not exceed; NaN without values."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)]


HEADER = (
    "rate/s  streams  asked  refused  failed  first audio p50    p95  underruns/stream  silence p95  real-time factor"
)


def table_row(one: Report) -> str:
    """A report's figures under `HEADER`, and what a failed utterance was told."""
    return (
        f"{one.rate:6.2f} {one.offered:8.1f} {one.asked:6} {one.refused:8} {one.failed:7} {one.p50_first_audio:16.2f} "
        f"{one.p95_first_audio:6.2f} {one.underruns_per_stream:17.2f} {one.p95_silence:12.2f} "
        f"{one.real_time_factor:17.2f}" + (f"\n        {one.failure}" if one.failure else "")
    )


async def largest_held(
    measure: Callable[[float], Awaitable[Report]], target: Target, rate: float, within: float = 1.1
) -> Report | None:
    """Measures loads, `rate` first, until the largest one held is known to a factor of `within`; None if none is.

    Doubles the rate while loads are held and halves it while none is, then bisects.
    """
    best: Report | None = None
    too_much = math.inf
    for _ in range(MOST_LOADS):
        one = await measure(rate)
        if target.held(one):
            best = one
        else:
            too_much = rate
        if best is None:
            rate = too_much / 2
        elif math.isinf(too_much):
            rate = 2 * best.rate
        elif too_much <= within * best.rate:
            break
        else:
            rate = math.sqrt(best.rate * too_much)
    return best
