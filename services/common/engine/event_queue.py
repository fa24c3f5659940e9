"""The queue of events for one call: from an engine's thread, from a reader task, or a failure."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class EventQueue(Generic[T]):
    """Events for one call, in order. Create it in the call's task; `post` may be called from any thread.

    The senders bound its size: engines stop at a stream's lead, and a peer's events are delivered by `send`.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[tuple[T | BaseException, asyncio.Future[None] | None]] = asyncio.Queue()

    def post(self, item: T) -> None:
        """Deliver an event; drop it if the call's loop has ended, because it has no reader then."""
        self._deliver(item)

    def fail(self, error: BaseException) -> None:
        """Let the reader's next `take` raise `error`."""
        self._deliver(error)

    def _deliver(self, item: T | BaseException) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._items.put_nowait, (item, None))

    async def send(self, item: T) -> None:
        """Deliver an event and wait until it is taken, so that the reader limits the rate of a peer."""
        taken = self._loop.create_future()
        self._items.put_nowait((item, taken))
        await taken

    async def take(self, wait: float | None = None) -> T | None:
        """Return the next event, or None after `wait` seconds without one. Raises the error passed to `fail`."""
        try:
            async with asyncio.timeout(wait):
                item, taken = await self._items.get()
        except TimeoutError:
            return None
        if taken is not None and not taken.done():
            taken.set_result(None)
        if isinstance(item, BaseException):
            raise item
        return item


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
