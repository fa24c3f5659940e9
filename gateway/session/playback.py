"""The listener's position in a stream's audio, which limits how far ahead audio is sent."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable

from services.common.errors import InvalidInput


class PlaybackClock:
    """Estimates the playback position by the clock, as if each chunk is played as soon as possible.

    Once the client reports positions, only these count. All times are seconds of the stream's audio.
    """

    def __init__(self, max_lead: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        """`max_lead`: longest audio sent ahead of the position; None: no limit."""
        self._max_lead = max_lead
        self._clock = clock
        self._sent = 0.0
        self._reported: float | None = None
        self._dry_at = clock()
        """Clock time at which all sent audio has been played."""
        self._changed = asyncio.Event()

    @property
    def position(self) -> float:
        """Seconds played so far."""
        if self._reported is not None:
            return min(self._reported, self._sent)
        return max(0.0, self._sent - max(0.0, self._dry_at - self._clock()))

    def report(self, seconds: float) -> None:
        """Record a position reported by the client; it never goes back. Raises InvalidInput if it is not a position."""
        if not (math.isfinite(seconds) and seconds >= 0):
            raise InvalidInput(f"position is {seconds}; it must be 0 or more seconds", field="position.seconds")
        self._reported = max(seconds, self._reported or 0.0)
        self._changed.set()

    def sent(self, seconds: float) -> None:
        """Record that more audio was sent."""
        self._dry_at = max(self._dry_at, self._clock()) + seconds
        self._sent += seconds

    def cut(self) -> None:
        """Record a barge-in: the client drops the unplayed audio, which counts as played."""
        self._dry_at = self._clock()
        if self._reported is not None:
            self._reported = self._sent

    def stop_reports(self) -> None:
        """End the reports. After reports, the clock continues from the last one; without any, the limit is lifted."""
        if self._reported is None:
            self._max_lead = None
        else:
            self._dry_at = self._clock() + self._sent - self.position
            self._reported = None
        self._changed.set()

    async def wait_for_room(self, seconds: float) -> None:
        """Wait until `seconds` more may be sent. More than `max_lead` waits until all earlier audio is played."""
        while self._max_lead is not None:
            lead = self._sent - self.position
            excess = min(lead, lead + seconds - self._max_lead)
            if excess <= 0:
                return
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(excess if self._reported is None else None):
                    await self._changed.wait()
