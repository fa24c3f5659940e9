"""A clock for tests of failover: limits in seconds are measured with it, so a slow machine cannot exceed them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

LONG_SECONDS = 1000.0
"""One step of the clock; longer than every limit that tests set."""


class ManualClock:
    """Seconds that stand still until a test advances them."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def advance_until(self, condition: Callable[[], bool]) -> None:
        """Advance step by step until `condition` holds."""
        while not condition():
            self.now += LONG_SECONDS
            await asyncio.sleep(0.01)
