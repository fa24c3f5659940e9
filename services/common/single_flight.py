"""Runs equal work once: concurrent callers with the same key share one job (request coalescing)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass
class _Job(Generic[V]):
    task: asyncio.Task[V]
    callers: int = 0


class SingleFlight(Generic[K, V]):
    """Runs at most one job per key. A job is cancelled when its last caller is cancelled; results are not kept."""

    def __init__(self) -> None:
        self._jobs: dict[K, _Job[V]] = {}

    async def run(self, key: K, work: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """Return the result of the running job for `key`, or of a new job `work`. Every caller gets the job's error."""
        job = self._jobs.get(key)
        if job is None:
            job = self._jobs[key] = _Job(asyncio.create_task(work()))
        job.callers += 1
        try:
            return await asyncio.shield(job.task)
        finally:
            job.callers -= 1
            # The job has ended or is about to be cancelled, so the next caller must start a new one.
            if (job.task.done() or not job.callers) and self._jobs.get(key) is job:
                del self._jobs[key]
            if not job.callers and not job.task.done():
                job.task.cancel()
                await asyncio.wait({job.task})

    def __len__(self) -> int:
        """Return the number of running jobs."""
        return len(self._jobs)
