"""Which workers fail on requests that other workers complete, as evidence against the worker."""

from __future__ import annotations

import time
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
        self._failures: dict[str, list[float]] = {}

    def add(self, address: str) -> bool:
        """Add one request's failure at a worker; return whether enough requests failed there to eject the worker."""
        now = self._clock()
        counting = {one: [at for at in times if now - at < MEMORY_SECONDS] for one, times in self._failures.items()}
        recent = [*counting.pop(address, []), now]
        eject = len(recent) >= REQUESTS
        if not eject:
            counting[address] = recent
        self._failures = {one: times for one, times in counting.items() if times}
        return eject

    def __len__(self) -> int:
        """Return the number of workers with failures that counted at the last `add`."""
        return len(self._failures)
