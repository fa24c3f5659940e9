"""A bounded queue that can be closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _End:
    error: Exception | None


class ClosableQueue(Generic[T]):
    """Passes items from one sender to one reader, in order. Iteration ends, or raises, after all items."""

    def __init__(self, size: int) -> None:
        """`size`: items that may wait for the reader; then `send` waits."""
        self._room = asyncio.Semaphore(size)
        self._items: asyncio.Queue[T | _End] = asyncio.Queue()
        self.taken = 0
        """Items that the reader has received so far."""

    @property
    def waiting(self) -> int:
        """Items that wait for the reader."""
        return self._items.qsize()

    async def send(self, item: T) -> None:
        """Add an item as soon as there is room. If the call is cancelled while it waits, nothing is added."""
        await self.send_made(lambda: item)

    async def send_made(self, make: Callable[[], T | None]) -> None:
        """Add the item that `make` returns, unless it is None. `make` runs when there is room; it may have effects."""
        await self._room.acquire()
        item = None
        try:
            item = make()
        finally:
            if item is None:
                self._room.release()
        if item is not None:
            self._items.put_nowait(item)

    def drop_waiting(self) -> None:
        """Drop the items that wait for the reader. Only the sender may call it, and not after `close`."""
        while not self._items.empty():
            self._items.get_nowait()
            self._room.release()

    def close(self, error: Exception | None = None) -> None:
        """Close the queue; the reader gets `error`, if given, after the items that wait."""
        self._items.put_nowait(_End(error))

    def __aiter__(self) -> ClosableQueue[T]:
        return self

    async def __anext__(self) -> T:
        item = await self._items.get()
        if isinstance(item, _End):
            self._items.put_nowait(item)  # so that every later read ends too
            if item.error is not None:
                raise item.error
            raise StopAsyncIteration
        self.taken += 1
        self._room.release()
        return item
