"""Which workers fail on requests that other workers complete, as evidence against the worker."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

MEMORY_SECONDS = 60.0
"""How long a failure counts."""
REQUESTS = 2
"""Different requests that must have failed at a worker before the worker is ejected."""


class FailureLog:
    """Internal errors of a pool's workers, each on a request that another worker completed afterwards.

    A request that fails at two workers is not evidence against either, so that a text which makes every worker fail
    cannot eject them all. All streams of a process to one pool share one log.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` returns seconds."""
        self._clock = clock
        self._failures: defaultdict[str, list[float]] = defaultdict(list)

    def add(self, address: str) -> bool:
        """Add one request's failure at a worker; return whether enough requests failed there to eject the worker."""
        now = self._clock()
        recent = [at for at in self._failures[address] if now - at < MEMORY_SECONDS]
        recent.append(now)
        eject = len(recent) >= REQUESTS
        self._failures[address] = [] if eject else recent
        return eject
