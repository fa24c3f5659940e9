"""Which workers may be left on mere suspicion: a pool that is slow as a whole must not be made slower by moving."""

from __future__ import annotations

import time
from collections.abc import Callable

MEMORY_SECONDS = 30.0
"""A worker that was suspected so long ago no longer counts against the others."""


class FailoverBudget:
    """Silence and standstill are guesses, and every move makes another worker compute a history again.

    All streams of a process to one pool share this budget: at most half of the workers, but always one, may be under
    suspicion at a time. When more fall silent together the pool or the network is slow, and streams stay where they
    are.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}

    def suspect(self, address: str, workers: int) -> bool:
        """Whether a stream may leave this one of `workers` workers; then others may leave it too."""
        now = self._clock()
        self._since = {one: since for one, since in self._since.items() if now - since < MEMORY_SECONDS}
        if address not in self._since and len(self._since) >= max(1, workers // 2):
            return False
        self._since.setdefault(address, now)
        return True
