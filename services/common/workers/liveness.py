"""Detect a frozen worker in a fraction of a second, without moving the streams of a pool that is slow as a whole.

Workers send a message or a heartbeat every 0.1 s on each stream. A worker that has sent nothing for `frozen_seconds` is
frozen, or its connection is stalled, if all of this holds:

* it did not answer a health check, and at least half of the other workers that were checked answered theirs;
* the silence is at least twice as long as the pauses that are usual at the other workers.

Without this evidence, only the longer limit of `MovePolicy.silence_seconds` applies.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field

import structlog

log = structlog.get_logger(__name__)

CHECK_SECONDS = 0.05
"""Time between two checks while a health check is under way."""
PAUSE_FACTOR = 2.0
"""A silence is unusual from this multiple of the usual pauses on."""
PAUSE_MEMORY_SECONDS = 5.0
"""The longest pause of a worker counts for one to two times this long."""
LARGEST_SAMPLE = 4
"""Most other workers that get a health check in one round."""
MOST_ROUNDS = 2
"""Most rounds of health checks at once, so that a slow pool does not get slower by them."""

Probe = Callable[[Collection[str], float], Awaitable[Collection[str]]]
"""Send health checks to workers; return those that answered within a number of seconds."""


@dataclass
class _Messages:
    """When one worker last sent a message, and its longest pause in this and in the previous interval."""

    since: float
    last: float = float("-inf")
    longest: float = 0.0
    before: float = 0.0

    def add_pause(self, seconds: float, now: float) -> None:
        self._renew(now)
        self.longest = max(self.longest, seconds)

    def recent(self, now: float) -> float | None:
        """Return the longest recent pause, or None if no message was received recently."""
        self._renew(now)
        return max(self.longest, self.before) or None

    def _renew(self, now: float) -> None:
        intervals = int((now - self.since) / PAUSE_MEMORY_SECONDS)
        if intervals:
            self.before = self.longest if intervals == 1 else 0.0
            self.longest = 0.0
            self.since = now


@dataclass
class _Round:
    """Health checks of a silent worker and of a sample of the others."""

    silent: asyncio.Task[bool]
    """Whether the worker did not answer while the others did."""
    until: float
    """Until when the answer counts."""


@dataclass
class Liveness:
    """What this process observed of one pool's workers. Shared by all its streams to the pool."""

    chance: random.Random = field(default_factory=random.Random)
    """Chooses the workers that get a health check."""
    _messages: dict[str, _Messages] = field(default_factory=dict)
    _rounds: dict[str, _Round] = field(default_factory=dict)

    def add_message(self, address: str, pause: float, now: float) -> None:
        """Record a message of a worker, for which a stream waited `pause` seconds."""
        messages = self._of(address, now)
        messages.last = now
        messages.add_pause(pause, now)

    def add_silence(self, address: str, silence: float, now: float) -> None:
        """Record that a worker has been silent for `silence` seconds so far; it counts as one of its pauses."""
        self._of(address, now).add_pause(silence, now)

    def _of(self, address: str, now: float) -> _Messages:
        if address not in self._messages:  # only here the table grows, so old entries go here
            oldest = now - 2 * PAUSE_MEMORY_SECONDS
            self._messages = {one: past for one, past in self._messages.items() if past.since > oldest}
            self._messages[address] = _Messages(now)
        return self._messages[address]

    def last_message(self, address: str) -> float:
        """Return the time of the worker's last message on any stream; minus infinity if there was none."""
        messages = self._messages.get(address)
        return float("-inf") if messages is None else messages.last

    def usual_pause(self, others: Sequence[str], now: float) -> float:
        """Return the longest recent pause of the median of `others`; 0 if none of them sent messages recently."""
        pauses = (self._messages[other].recent(now) for other in others if other in self._messages)
        recent = sorted(pause for pause in pauses if pause is not None)
        return recent[(len(recent) - 1) // 2] if recent else 0.0

    def only_this_one_silent(
        self, address: str, others: Sequence[str], probe: Probe, seconds: float, now: float
    ) -> bool:
        """Return whether health checks of the last `2 * seconds` show that this worker is frozen and others are not.

        Starts the checks if there are none; their result is known `seconds` later. Streams share them.
        """
        found = self._rounds.get(address)
        if found is None or now >= found.until:
            self._rounds = {one: past for one, past in self._rounds.items() if now < past.until}
            if sum(not one.silent.done() for one in self._rounds.values()) < MOST_ROUNDS:
                sample = self.chance.sample(others, min(len(others), LARGEST_SAMPLE))
                checks = asyncio.create_task(_only_this_one_silent(address, sample, probe, seconds))
                checks.add_done_callback(_report_defect)
                self._rounds[address] = _Round(checks, now + 2 * seconds)
            return False
        checks = found.silent
        return checks.done() and not checks.cancelled() and checks.exception() is None and checks.result()


async def _only_this_one_silent(address: str, sample: Sequence[str], probe: Probe, seconds: float) -> bool:
    answered = await probe([address, *sample], seconds)
    return bool(sample) and address not in answered and 2 * len(answered) >= len(sample)


def _report_defect(checks: asyncio.Task[bool]) -> None:
    if not checks.cancelled() and (defect := checks.exception()) is not None:
        log.error("health checks of a silent worker failed", exc_info=defect)


class FreezeDetector:
    """Watches one stream's worker while the stream waits for a message."""

    def __init__(
        self,
        liveness: Liveness,
        address: str,
        frozen_seconds: float,
        others: Callable[[], Sequence[str]],
        probe: Probe,
        clock: Callable[[], float],
    ) -> None:
        """
        Args:
            liveness: shared by all streams to the pool.
            address: of the stream's worker.
            frozen_seconds: shortest silence of a frozen worker; health checks start after half of it.
            others: returns the addresses of the pool's other workers that serve.
            probe: sends the health checks.
            clock: returns seconds.
        """
        self._liveness = liveness
        self._address = address
        self._frozen_seconds = frozen_seconds
        self._others = others
        self._probe = probe
        self._clock = clock
        self._since = clock()

    def await_message(self) -> None:
        """Start to measure: the stream has begun to wait for a message."""
        self._since = self._clock()

    def on_message(self) -> None:
        """Record that the message was received."""
        now = self._clock()
        self._liveness.add_message(self._address, now - self._since, now)

    def check(self) -> float:
        """Return the seconds until the next check; 0 if the worker is frozen."""
        now = self._clock()
        probe_seconds = self._frozen_seconds / 2
        silence = now - max(self._since, self._liveness.last_message(self._address))
        soonest = self._frozen_seconds - probe_seconds - silence
        if soonest > 0:  # after nearly every message; the other workers, maybe hundreds, are not looked at
            return soonest
        others = self._others()
        limit = max(self._frozen_seconds, PAUSE_FACTOR * self._liveness.usual_pause(others, now))
        wait = limit - probe_seconds - silence
        if wait <= 0:
            self._liveness.add_silence(self._address, silence, now)
            frozen = self._liveness.only_this_one_silent(self._address, others, self._probe, probe_seconds, now)
            if frozen and silence >= limit:
                return 0.0
            return CHECK_SECONDS
        return wait
