"""A bounded queue that can be closed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _End:
    error: Exception | None


class ClosableQueue(Generic[T]):
    """Passes items to one reader, in order. Iteration ends, or raises, after all items.

    It waits on futures of its own: every message of a session passes two of these queues, and asyncio's queue and
    semaphore would take four times as many function calls.
    """

    def __init__(self, size: int) -> None:
        """`size`: items that may wait for the reader; then `send` waits."""
        self._size = size
        self._items: deque[T] = deque()
        self._end: _End | None = None
        self._reader: asyncio.Future[None] | None = None
        """Of the reader, while there is no item."""
        self._senders: deque[asyncio.Future[None]] = deque()
        """Of the senders that wait for room, in order; each stays until its sender continues."""
        self.taken = 0
        """Items that the reader has received so far."""

    @property
    def waiting(self) -> int:
        """Items that wait for the reader."""
        return len(self._items)

    async def send(self, item: T) -> None:
        """Add an item as soon as there is room. If the call is cancelled while it waits, nothing is added."""
        await self.send_made(lambda: item)

    async def send_made(self, make: Callable[[], T | None]) -> None:
        """Add the item that `make` returns, unless it is None. `make` runs when there is room; it may have effects."""
        if self._senders or len(self._items) >= self._size:
            await self._room()
        try:
            item = make()
            if item is not None and self._end is None:
                self._items.append(item)
                self._wake_reader()
        finally:
            self._admit()

    async def _room(self) -> None:
        place = asyncio.get_running_loop().create_future()
        self._senders.append(place)
        try:
            await place
        except asyncio.CancelledError:
            self._senders.remove(place)
            self._admit()
            raise
        self._senders.remove(place)

    def _admit(self) -> None:
        """Let the sender that has waited longest continue if there is room. It admits the next one."""
        if self._senders and len(self._items) < self._size and not self._senders[0].done():
            self._senders[0].set_result(None)

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def drop_waiting(self) -> None:
        """Drop the items that wait for the reader. Only the sender may call it, and not after `close`."""
        self._items.clear()
        self._admit()

    def close(self, error: Exception | None = None) -> None:
        """Close the queue; the reader gets `error`, if given, after the items that wait. Later items are dropped."""
        self._end = self._end or _End(error)
        self._wake_reader()

    def __aiter__(self) -> ClosableQueue[T]:
        return self

    async def __anext__(self) -> T:
        while not self._items:
            if self._end is not None:
                if self._end.error is not None:
                    raise self._end.error
                raise StopAsyncIteration
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        item = self._items.popleft()
        self.taken += 1
        self._admit()
        return item
