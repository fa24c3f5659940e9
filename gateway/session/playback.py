"""Where the listener is in a stream's audio, so that it is sent no further ahead of them than it should be."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable

from services.common.errors import InvalidInput


class PlaybackClock:
    """Plays each chunk on as soon as it can, as far as the clock tells; once they report, only their word counts.

    All times are seconds of the stream's audio.
    """

    def __init__(self, max_lead: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        """`max_lead`: audio sent ahead at most; None does not hold any back."""
        self._max_lead = max_lead
        self._clock = clock
        self._sent = 0.0
        self._reported: float | None = None
        self._dry_at = clock()
        """When everything sent has been played, by the clock."""
        self._moved = asyncio.Event()

    @property
    def position(self) -> float:
        """What has been played."""
        if self._reported is not None:
            return min(self._reported, self._sent)
        return max(0.0, self._sent - max(0.0, self._dry_at - self._clock()))

    def report(self, seconds: float) -> None:
        """The listener's own word; they never go back. Raises InvalidInput for what is no position."""
        if not (math.isfinite(seconds) and seconds >= 0):
            raise InvalidInput(f"position is {seconds}; it must be 0 or more seconds", field="position.seconds")
        self._reported = max(seconds, self._reported or 0.0)
        self._moved.set()

    def sent(self, seconds: float) -> None:
        """So much more audio went out."""
        self._dry_at = max(self._dry_at, self._clock()) + seconds
        self._sent += seconds

    def cut(self) -> None:
        """A barge-in: they drop what they have not played, which counts as played."""
        self._dry_at = self._clock()
        if self._reported is not None:
            self._reported = self._sent

    def mute(self) -> None:
        """No more reports can come: who has reported is followed by the clock, who never has is not held back."""
        if self._reported is None:
            self._max_lead = None
        else:
            self._dry_at = self._clock() + self._sent - self.position
            self._reported = None
        self._moved.set()

    async def room(self, seconds: float) -> None:
        """Waits until `seconds` more may be sent. What is longer than the lead itself is sent when nothing waits."""
        while self._max_lead is not None:
            lead = self._sent - self.position
            excess = min(lead, lead + seconds - self._max_lead)
            if excess <= 0:
                return
            self._moved.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(excess if self._reported is None else None):
                    await self._moved.wait()
