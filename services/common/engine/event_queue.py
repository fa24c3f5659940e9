"""How events reach the task of one call: from an engine's thread, from a reader task, or as a failure."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class EventQueue(Generic[T]):
    """Events for one call, in order. Created in the call's task; `post` may be called from any thread.

    It holds no more than its senders are allowed to produce: engines stop at a stream's lead, and what a peer produces
    is delivered by `send`.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[tuple[T | BaseException, asyncio.Future[None] | None]] = asyncio.Queue()

    def post(self, item: T) -> None:
        """Delivers an event; when the call's loop has ended, nobody is left to read it and it is dropped."""
        self._deliver(item)

    def fail(self, error: BaseException) -> None:
        """Makes the reader's next `take` raise `error`."""
        self._deliver(error)

    def _deliver(self, item: T | BaseException) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._items.put_nowait, (item, None))

    async def send(self, item: T) -> None:
        """Delivers an event and waits until it is taken: a peer that sends without end is held back by its reader."""
        taken = self._loop.create_future()
        self._items.put_nowait((item, taken))
        await taken

    async def take(self, wait: float | None = None) -> T | None:
        """The next event, or None after `wait` seconds without one. Raises what was passed to `fail`."""
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
async def background(work: Coroutine[Any, Any, None], mailbox: EventQueue[T]) -> AsyncIterator[None]:
    """Runs `work` beside the block and ends with it; a failure of the work surfaces through the mailbox."""

    def report(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            mailbox.fail(error)

    task = asyncio.create_task(work)
    task.add_done_callback(report)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
