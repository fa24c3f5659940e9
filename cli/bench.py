"""Open-loop load on a gateway: utterances arrive as a Poisson process, whether or not the ones before have ended.

A closed loop waits for slow answers before it asks again and so hides them. `offered` streams here means that, on
average, so many utterances would be playing at once if each began playing when it was asked for.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cli.client import ClientError, Speech, speak
from cli.say import make_config
from lighttts.v1.audio_pb2 import AudioChunk

GAP_SECONDS = 0.005
"""Silence shorter than this nobody hears, and timers are no better."""


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

    ends_at: float = 0.0
    """When the audio so far will have been heard; 0 before the first chunk."""
    underruns: int = 0
    silence: float = 0.0

    def take(self, now: float, seconds: float) -> None:
        """`seconds` of audio arrive at `now`."""
        gap = now - self.ends_at
        if self.ends_at and gap > GAP_SECONDS:
            self.underruns += 1
            self.silence += gap
        self.ends_at = max(now, self.ends_at) + seconds


@dataclass
class Heard:
    """One utterance of a load."""

    asked_at: float
    speech: Speech | None = None
    """None when it failed."""
    playback: Playback = field(default_factory=Playback)
    error: str = ""


@dataclass(frozen=True)
class Report:
    """What listeners had of one load. Times in seconds; NaN where nobody heard anything."""

    rate: float
    asked: int
    refused: int
    p50_first_audio: float
    p95_first_audio: float
    underruns_per_stream: float
    streams_with_underrun: int
    p95_silence: float
    real_time_factor: float
    """Median; below 1 the system keeps up."""
    audio_seconds: float
    """Mean length of an utterance."""

    @property
    def offered(self) -> float:
        """Utterances that play at once, on average."""
        return self.rate * self.audio_seconds


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
        tasks.append(asyncio.create_task(_listen(server, load, number)))
    return list(await asyncio.gather(*tasks))


async def _listen(server: str, load: Load, number: int) -> Heard:
    heard = Heard(time.monotonic())

    def take(chunk: AudioChunk) -> None:
        heard.playback.take(time.monotonic(), len(chunk.pcm) / 2 / chunk.sample_rate)

    config = make_config(load.voice, None, None, load.seed + number, 1.0)
    try:
        heard.speech = await speak(server, config, load.text, take)
    except ClientError as error:
        heard.error = str(error)
    return heard


def report(load: Load, heard: Sequence[Heard]) -> Report:
    """The figures of a load."""
    speeches = [one.speech for one in heard if one.speech is not None and one.speech.samples]
    played = [one.playback for one in heard if one.speech is not None and one.speech.samples]
    first = [speech.time_to_first_audio for speech in speeches]
    return Report(
        rate=load.rate,
        asked=len(heard),
        refused=len(heard) - len(speeches),
        p50_first_audio=percentile(first, 50),
        p95_first_audio=percentile(first, 95),
        underruns_per_stream=sum(one.underruns for one in played) / len(played) if played else math.nan,
        streams_with_underrun=sum(one.underruns > 0 for one in played),
        p95_silence=percentile([one.silence for one in played], 95),
        real_time_factor=percentile([speech.real_time_factor for speech in speeches], 50),
        audio_seconds=sum(speech.audio_seconds for speech in speeches) / len(speeches) if speeches else math.nan,
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of all do not exceed; NaN without values."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)]
