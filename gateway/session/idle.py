"""The end of idle streams."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

CHECKS = 10
"""Checks per idle period: a stream is idle for at most a tenth longer than the setting."""


async def wait_until_idle(
    activity: Callable[[], object], seconds: float, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> None:
    """Return when `activity()` has not changed for `seconds`, and at most 1.1 times as long."""
    seen, unchanged = activity(), 0
    while unchanged < CHECKS:
        await sleep(seconds / CHECKS)  # no event: this waits for inactivity
        now = activity()
        unchanged = unchanged + 1 if now == seen else 0
        seen = now
