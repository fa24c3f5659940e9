"""A bounded queue with an end."""

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
    """Items from one sender to one reader, in order. The reader iterates; the end comes after all items, or raises."""

    def __init__(self, size: int) -> None:
        """`size`: items that may wait for the reader; the sender of one more waits."""
        self._room = asyncio.Semaphore(size)
        self._items: asyncio.Queue[T | _End] = asyncio.Queue()
        self.taken = 0
        """Items the reader has got so far."""

    @property
    def waiting(self) -> int:
        """Items that wait for the reader."""
        return self._items.qsize()

    async def send(self, item: T) -> None:
        """Passes an item on as soon as there is room. Cancelled while waiting, it has not passed it on."""
        await self.send_made(lambda: item)

    async def send_made(self, make: Callable[[], T | None]) -> None:
        """Passes on what `make` returns, unless that is None. It runs once there is room, so it may have effects."""
        await self._room.acquire()
        item = None
        try:
            item = make()
        finally:
            if item is None:
                self._room.release()
        if item is not None:
            self._items.put_nowait(item)

    def close(self, error: Exception | None = None) -> None:
        """Ends the channel; with `error`, the reader gets that after the items that wait."""
        self._items.put_nowait(_End(error))

    def clear(self) -> None:
        """Drops the items that wait. Not to be called after `close`."""
        while not self._items.empty():
            self._items.get_nowait()
            self._room.release()

    def __aiter__(self) -> ClosableQueue[T]:
        return self

    async def __anext__(self) -> T:
        item = await self._items.get()
        if isinstance(item, _End):
            self._items.put_nowait(item)  # the end stays the end
            if item.error is not None:
                raise item.error
            raise StopAsyncIteration
        self.taken += 1
        self._room.release()
        return item
