"""Sends a load's requests, and measures whether this program itself was late."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from cli.bench.apis import Answer, Api
from cli.bench.load import Load, arrivals
from cli.client import ClientError, Refused

BEAT_SECONDS = 0.01
"""Interval of the timer whose lateness is measured."""


@dataclass
class Outcome:
    """One request of a load. Times in seconds of the monotonic clock."""

    due_at: float
    """When it was due; in a closed load, when it was sent."""
    answer: Answer = field(default_factory=Answer)
    error: ClientError | None = None
    ended_at: float = math.nan

    @property
    def audio_seconds(self) -> float:
        return self.answer.playback.seconds

    @property
    def completed(self) -> bool:
        return self.error is None and self.audio_seconds > 0

    @property
    def refused(self) -> bool:
        """Whether it was refused before any audio."""
        return isinstance(self.error, Refused) and not self.audio_seconds

    @property
    def failure(self) -> str | None:
        """Why it failed; None if it was completed or refused."""
        if self.completed or self.refused:
            return None
        cut = "cut after its first audio: " if self.audio_seconds else ""
        return cut + str(self.error or "no audio arrived")

    def after(self, at: float | None) -> float:
        """Return the seconds from the request to `at`; infinite for None."""
        return math.inf if at is None else at - self.due_at

    @property
    def real_time_factor(self) -> float:
        """Seconds until the end per second of audio; infinite without audio."""
        return (self.ended_at - self.due_at) / self.audio_seconds if self.audio_seconds else math.inf


@dataclass(frozen=True)
class Run:
    """What a load brought about."""

    load: Load
    outcomes: Sequence[Outcome]
    lags: Sequence[float] = ()
    """By how many seconds this program's timers and requests were late."""
    seconds: float = 0.0
    """From the first request to the last answer."""


async def offer(api: Api, load: Load) -> Run:
    """Send the requests of a load and wait for all of them. A refusal is an outcome, not an error."""
    lags: list[float] = []
    started = time.monotonic()
    async with _heartbeat(lags):
        outcomes = await (_closed(api, load) if load.streams else _open(api, load, lags))
    return Run(load, outcomes, lags, time.monotonic() - started)


async def _open(api: Api, load: Load, lags: list[float]) -> list[Outcome]:
    started = time.monotonic()
    tasks = []
    for number, at in enumerate(arrivals(load)):
        await asyncio.sleep(max(0.0, started + at - time.monotonic()))
        lags.append(time.monotonic() - started - at)
        tasks.append(asyncio.create_task(_listen(api, load, number, started + at)))
    return list(await asyncio.gather(*tasks))


async def _closed(api: Api, load: Load) -> list[Outcome]:
    until = time.monotonic() + load.seconds
    outcomes: list[Outcome] = []

    async def repeat() -> None:
        while True:
            outcomes.append(outcome := Outcome(time.monotonic()))
            await _speak(api, load, len(outcomes) - 1, outcome)
            if time.monotonic() >= until:
                return
            if outcome.error is not None:
                await asyncio.sleep(BEAT_SECONDS)  # a server that refuses at once must not be flooded

    await asyncio.gather(*(repeat() for _ in range(load.streams)))
    return outcomes


async def _listen(api: Api, load: Load, number: int, due_at: float) -> Outcome:
    outcome = Outcome(due_at)
    await _speak(api, load, number, outcome)
    return outcome


async def _speak(api: Api, load: Load, number: int, outcome: Outcome) -> None:
    try:
        await api.speak(load.prompt(number), load.seed + number, outcome.answer)
    except ClientError as error:
        outcome.error = error
    outcome.ended_at = time.monotonic()


@asynccontextmanager
async def _heartbeat(lags: list[float]) -> AsyncIterator[None]:
    """Record by how much a timer is late: an event loop that is busy reads answers late, too."""

    async def beat() -> None:
        while True:
            due = time.monotonic() + BEAT_SECONDS
            await asyncio.sleep(BEAT_SECONDS)
            lags.append(max(0.0, time.monotonic() - due))

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
