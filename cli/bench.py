"""Open-loop load on a gateway: utterances arrive as a Poisson process, whether or not earlier ones have ended.

A closed loop waits for slow answers before its next request, which hides the slow answers. Here every time counts from
the instant at which the request was due, even if the generator itself was late. `offered` streams is the mean number of
utterances that would play at once if each began to play when it was due.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from cli.client import ClientError, Refused, Speech, list_voices, speak
from cli.console import out
from cli.say import make_config
from lighttts.v1.audio_pb2 import AudioChunk

GAP_SECONDS = 0.005
"""Shorter silence is inaudible, and timers are no more precise."""
MOST_LOADS = 20
"""A search for the largest load ends after this many loads."""

SENTENCES = (
    "Good morning, and thank you for calling the library.",
    "The book that you asked for came back this week.",
    "We keep it for you until the end of the month.",
    "Please bring your card when you come to the desk.",
    "The doors are open from nine until six in the evening.",
    "On Sundays only the reading room is open.",
    "If you want to keep it longer, call us again.",
    "We wish you a pleasant day, and goodbye.",
)


def text_of(sentences: int) -> str:
    """Return a text of this many sentences."""
    return " ".join(SENTENCES[number % len(SENTENCES)] for number in range(sentences))


TEXT = text_of(3)
"""Several sentences, because a server may treat the sentences of one stream differently."""


@dataclass(frozen=True)
class Load:
    """Utterances of `text` at `rate` per second for `seconds`, by a generator seeded with `seed`."""

    text: str
    rate: float
    seconds: float
    voice: str | None = None
    seed: int = 0


@dataclass
class Playback:
    """Simulates a listener who plays from the first chunk on. Times in seconds of the monotonic clock."""

    began_at: float | None = None
    """When the first chunk arrived."""
    ends_at: float = 0.0
    """When the audio received so far will have been played."""
    underruns: int = 0
    """How often the listener had no audio to play."""
    silence: float = 0.0
    """For how long, in total."""

    def take(self, now: float, seconds: float) -> None:
        """Count `seconds` of audio that arrived at `now`."""
        gap = now - self.ends_at
        if self.began_at is None:
            self.began_at = now
        elif gap > GAP_SECONDS:
            self.underruns += 1
            self.silence += gap
        self.ends_at = max(now, self.ends_at) + seconds


@dataclass
class Outcome:
    """One utterance of a load."""

    due_at: float
    """When its request was due."""
    playback: Playback = field(default_factory=Playback)
    speech: Speech = field(default_factory=Speech)
    """Empty unless the stream ended well."""
    error: ClientError | None = None

    @property
    def completed(self) -> bool:
        return self.error is None and self.speech.samples > 0

    @property
    def refused(self) -> bool:
        """Whether it was refused before any audio."""
        return isinstance(self.error, Refused) and self.playback.began_at is None

    @property
    def failure(self) -> str | None:
        """Why it failed; None if it was completed or refused."""
        if self.completed or self.refused:
            return None
        cut = "cut after its first audio: " if self.playback.began_at is not None else ""
        return cut + str(self.error or "no audio arrived")

    @property
    def first_audio(self) -> float:
        """Seconds until the first audio; infinite if none arrived."""
        return math.inf if self.playback.began_at is None else self.playback.began_at - self.due_at


@dataclass(frozen=True)
class Report:
    """The figures of one load. Times in seconds, of the completed utterances; NaN without any."""

    rate: float
    asked: int
    refused: int
    """Refused for load, before any audio and with a retry hint."""
    failed: int
    """Ended by any other error, or refused after some audio."""
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
    """The error of the first utterance that failed."""

    @property
    def offered(self) -> float:
        """Mean number of utterances that play at once."""
        return self.rate * self.audio_seconds


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
        in_time = one.p95_first_audio <= self.p95_first_audio
        return (
            one.refused + one.failed == 0 and in_time and one.streams_with_underrun <= self.silent_streams * one.asked
        )


def arrivals(load: Load) -> Iterator[float]:
    """Return when requests are due, in seconds from the start: exponential gaps, within `load.seconds`."""
    clock = random.Random(load.seed)
    at = clock.expovariate(load.rate)
    while at < load.seconds:
        yield at
        at += clock.expovariate(load.rate)


async def offer(server: str, load: Load) -> list[Outcome]:
    """Send every request when it is due and wait for all of them. A refusal is an outcome, not an error."""
    started = time.monotonic()
    tasks = []
    for number, at in enumerate(arrivals(load)):
        await asyncio.sleep(max(0.0, started + at - time.monotonic()))
        tasks.append(asyncio.create_task(_listen(server, load, number, started + at)))
    return list(await asyncio.gather(*tasks))


async def _listen(server: str, load: Load, number: int, due_at: float) -> Outcome:
    outcome = Outcome(due_at)

    def take(chunk: AudioChunk) -> None:
        outcome.playback.take(time.monotonic(), len(chunk.pcm) / 2 / chunk.sample_rate)

    config = make_config(load.voice, None, None, load.seed + number, 1.0)
    try:
        outcome.speech = await speak(server, config, load.text, take)
    except ClientError as error:
        outcome.error = error
    return outcome


def report(load: Load, outcomes: Sequence[Outcome]) -> Report:
    """Return the figures of a load."""
    completed = [one for one in outcomes if one.completed]
    failures = [one.failure for one in outcomes if one.failure is not None]
    first_audio = [one.first_audio for one in completed]
    underruns = [one.playback.underruns for one in completed]
    return Report(
        rate=load.rate,
        asked=len(outcomes),
        refused=sum(one.refused for one in outcomes),
        failed=len(failures),
        p50_first_audio=percentile(first_audio, 50),
        p95_first_audio=percentile(first_audio, 95),
        underruns_per_stream=_mean(underruns),
        streams_with_underrun=sum(map(bool, underruns)),
        p95_silence=percentile([one.playback.silence for one in completed], 95),
        real_time_factor=percentile([one.speech.real_time_factor for one in completed], 50),
        audio_seconds=_mean([one.speech.audio_seconds for one in completed]),
        failure=next(iter(failures), ""),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that `percent` of all do not exceed; NaN without values."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)]


HEADER = (
    "rate/s  streams  asked  refused  failed  first audio p50    p95  underruns/stream  silence p95  real-time factor"
)


def table_row(one: Report) -> str:
    """Return a report's figures in the columns of `HEADER`, and below them the error of a failed utterance."""
    return (
        f"{one.rate:6.2f} {one.offered:8.1f} {one.asked:6} {one.refused:8} {one.failed:7} {one.p50_first_audio:16.2f} "
        f"{one.p95_first_audio:6.2f} {one.underruns_per_stream:17.2f} {one.p95_silence:12.2f} "
        f"{one.real_time_factor:17.2f}" + (f"\n        {one.failure}" if one.failure else "")
    )


async def largest_held(
    measure: Callable[[float], Awaitable[Report]], target: Target, rate: float, within: float = 1.1
) -> Report | None:
    """Measure loads, `rate` first, until the largest one held is known to a factor of `within`; None if none is held.

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


async def run_loads(server: str, loads: Sequence[Load], find: float | None) -> None:
    """Print the figures of every load; with `find`, of a search for the largest load held, starting at the first one.

    `find` is the longest 95th percentile of the first audio, in seconds. Raises ClientError without a gateway.
    """

    async def measure(load: Load) -> Report:
        one = report(load, await offer(server, load))
        out.print(table_row(one), soft_wrap=True)
        return one

    await list_voices(server)  # fails at once if no gateway listens there or the key is wrong
    out.print(HEADER, soft_wrap=True)
    if find is None:
        for load in loads:
            await measure(load)
        return
    best = await largest_held(lambda rate: measure(replace(loads[0], rate=rate)), Target(find), loads[0].rate)
    out.print(f"held: {best.rate:.2f} per second, {best.offered:.1f} streams" if best else "no load was held")
