"""How many workers may be given up without proof of failure, so that moves do not slow down a slow pool further."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from services.common.workers.failures import FailureLog
from services.common.workers.liveness import Liveness

MEMORY_SECONDS = 30.0
"""How long a worker that was given up counts against the budget."""
PROVEN_MEMORY_SECONDS = 5.0
"""The same for a worker that is proven to be frozen while others answer."""


class FailoverBudget:
    """Limit the workers that are given up because of silence or standstill, which do not prove a failure.

    Every move makes another worker recompute the stream's history. All streams of a process to one pool share one
    budget: at most half of the workers, but always one, may be given up at a time. When more workers fall silent
    together, the pool or the network is slow, and streams stay where they are.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, chance: random.Random | None = None) -> None:
        """`clock` returns seconds; `chance` chooses the workers that get a health check."""
        self.failures = FailureLog(clock)
        """Internal errors of the pool's workers; shared by the same streams."""
        self.liveness = Liveness(chance or random.Random())
        """Messages and silence of the pool's workers; shared by the same streams."""
        self._clock = clock
        self._until: dict[str, float] = {}

    def may_give_up(self, address: str, workers: int, *, proven: bool = False) -> bool:
        """Return whether a stream may leave this one of `workers` workers; if so, other streams may leave it too.

        `proven`: the worker did not answer a health check and others did.
        """
        now = self._clock()
        self._until = {one: until for one, until in self._until.items() if now < until}
        if address not in self._until and len(self._until) >= max(1, workers // 2):
            return False
        self._until.setdefault(address, now + (PROVEN_MEMORY_SECONDS if proven else MEMORY_SECONDS))
        return True
