"""Equal work is done once: callers that ask for the same thing at the same time share one result."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SingleFlight(Generic[K, V]):
    """Runs at most one job per key. A caller that goes away does not end a job that others wait for."""

    def __init__(self) -> None:
        self._flights: dict[K, asyncio.Task[V]] = {}
        self._waiting: dict[K, int] = {}

    async def run(self, key: K, work: Callable[[], Awaitable[V]]) -> V:
        """The result of the job under way for `key`, or of `work`. Raises what the job raises, to every caller."""
        task = self._flights.get(key)
        if task is None:
            task = self._flights[key] = asyncio.ensure_future(work())
            self._waiting[key] = 0
        self._waiting[key] += 1
        try:
            return await asyncio.shield(task)
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key]
                del self._flights[key]
                task.cancel()

    def __len__(self) -> int:
        return len(self._flights)
