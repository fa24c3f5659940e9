"""The queue of events for one call: from an engine's thread, from a reader task, or a failure."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class EventQueue(Generic[T]):
    """Events for one call, in order. Create it in the call's task; `post` may be called from any thread.

    The senders bound its size: engines stop at a stream's lead, and a peer's events are delivered by `send`.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: deque[tuple[T | BaseException, asyncio.Future[None] | None]] = deque()
        self._waiting: asyncio.Future[None] | None = None
        """Of the reader, while there is no event."""

    def post(self, item: T) -> None:
        """Deliver an event; drop it if the call's loop has ended, because it has no reader then."""
        self._deliver(item)

    def fail(self, error: BaseException) -> None:
        """Let the reader's next `take` raise `error`."""
        self._deliver(error)

    def _deliver(self, item: T | BaseException) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._add, item, None)

    def _add(self, item: T | BaseException, taken: asyncio.Future[None] | None) -> None:
        self._items.append((item, taken))
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def send(self, item: T) -> None:
        """Deliver an event and wait until it is taken, so that the reader limits the rate of a peer."""
        taken = self._loop.create_future()
        self._add(item, taken)
        await taken

    async def take(self, wait: float | None = None) -> T | None:
        """Return the next event, or None after `wait` seconds without one. Raises the error passed to `fail`."""
        if not self._items and not await self._arrival(wait):
            return None
        item, taken = self._items.popleft()
        if taken is not None and not taken.done():
            taken.set_result(None)
        if isinstance(item, BaseException):
            raise item
        return item

    async def _arrival(self, wait: float | None) -> bool:
        """Wait for an event, `wait` seconds at most; return whether there is one."""
        # Not by asyncio.timeout and asyncio.Queue: calls wait here several times per second of audio.
        self._waiting = self._loop.create_future()
        timer = None if wait is None else self._loop.call_later(wait, self._wake)
        try:
            await self._waiting
        finally:
            self._waiting = None
            if timer is not None:
                timer.cancel()
        return bool(self._items)


@contextlib.asynccontextmanager
async def background(work: Coroutine[Any, Any, None], events: EventQueue[T]) -> AsyncIterator[None]:
    """Run `work` in a task until the block ends; pass a failure of the work to the reader of `events`."""

    def report(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            events.fail(error)

    task = asyncio.create_task(work)
    task.add_done_callback(report)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
