"""Threads for text work that streams share fairly: they take turns, one step of bounded cost each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


class TextThreads:
    """Runs text work in threads of its own, so that it never waits for audio work.

    Work starts in the order in which it was queued. A stream queues its next step only after its last one is done and
    its client has taken the result, so every stream that waits is served once before a stream is served again.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="text")

    async def run(self, work: Callable[[], T]) -> T:
        """Return the result of one piece of work, which must be short."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def each(self, steps: Iterator[T]) -> AsyncGenerator[T]:
        """Yield what an iterator yields. Each step is computed in a thread when this stream's turn comes."""
        while result := await self.run(lambda: [*islice(steps, 1)]):
            yield result[0]

    def close(self) -> None:
        """Cancel the work that waits, and wait for the steps under way."""
        self._pool.shutdown(cancel_futures=True)
