"""How many workers may be given up without proof of failure, so that moves do not slow down a slow pool further."""

from __future__ import annotations

import time
from collections.abc import Callable

from services.common.workers.failures import FailureLog

MEMORY_SECONDS = 30.0
"""How long a worker that was given up counts against the budget."""


class FailoverBudget:
    """Limit the workers that are given up because of silence or standstill, which do not prove a failure.

    Every move makes another worker recompute the stream's history. All streams of a process to one pool share one
    budget: at most half of the workers, but always one, may be given up at a time. When more workers fall silent
    together, the pool or the network is slow, and streams stay where they are.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` returns seconds."""
        self.failures = FailureLog(clock)
        """Internal errors of the pool's workers; shared by the same streams."""
        self._clock = clock
        self._since: dict[str, float] = {}

    def may_give_up(self, address: str, workers: int) -> bool:
        """Return whether a stream may leave this one of `workers` workers; if so, other streams may leave it too."""
        now = self._clock()
        self._since = {one: since for one, since in self._since.items() if now - since < MEMORY_SECONDS}
        if address not in self._since and len(self._since) >= max(1, workers // 2):
            return False
        self._since.setdefault(address, now)
        return True
