"""Tells an act that is stuck from an act on a slow machine: by the requests that end meanwhile, not by time alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

LEAST_SECONDS = 90.0
"""No act is stuck before."""
OVERTAKEN = 10
"""An act is stuck when each client has, on average, begun and ended this many requests since it began."""
SLOWER = 5.0
"""Or when no request has ended for this many times the longest one so far."""


@dataclass(eq=False)
class Run:
    """One act that runs, or has ended."""

    began: float
    overtaken: int = 0
    """Requests that began after it and were spoken whole."""


@dataclass
class Pace:
    """The speed of a soak, as its requests show it."""

    clients: int
    clock: Callable[[], float] = time.monotonic
    """Returns seconds."""
    _running: set[Run] = field(default_factory=set)
    _longest: float = 0.0
    _last: float = float("-inf")
    """When a request was last spoken whole."""

    def begin(self) -> Run:
        run = Run(self.clock())
        self._running.add(run)
        return run

    def end(self, run: Run, *, whole: bool) -> None:
        """Record the end of an act; `whole`: it was a request whose speech was complete."""
        self._running.discard(run)
        if not whole:
            return
        self._last = self.clock()
        self._longest = max(self._longest, self._last - run.began)
        for other in self._running:
            other.overtaken += other.began < run.began

    def stuck(self, run: Run) -> bool:
        now = self.clock()
        if now - run.began < LEAST_SECONDS:
            return False
        quiet = now - max(run.began, self._last)
        return run.overtaken >= OVERTAKEN * self.clients or quiet >= max(LEAST_SECONDS, SLOWER * self._longest)
