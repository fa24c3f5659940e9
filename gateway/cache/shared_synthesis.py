"""One synthesis that several requests read while it runs (request coalescing)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from gateway.session.output import Event, Events

AHEAD = 4
"""Events produced ahead of the fastest reader: slow readers hold the synthesis back, as a single reader does."""


class SharedSynthesis:
    """Starts with its first reader; ends when it is complete, or when the last reader has left."""

    def __init__(
        self, speak: Callable[[SharedSynthesis], Awaitable[None]], on_end: Callable[[SharedSynthesis], None]
    ) -> None:
        """`speak` calls `fill` once; every reader gets its error, after the events before it."""
        self.events: list[Event] = []
        self._speak = speak
        self._on_end = on_end
        self._readers = 0
        self._max_read = 0
        self._ended = False
        self._error: Exception | None = None
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def fill(self, events: Events) -> None:
        """Record the events of a session."""
        async for event in events:
            async with self._changed:
                self.events.append(event)
                self._changed.notify_all()
                await self._changed.wait_for(lambda: len(self.events) - self._max_read < AHEAD)

    async def read(self) -> AsyncGenerator[Event]:
        """Yield all events from the first one. A reader that stops early must close the generator."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
            self._task.add_done_callback(lambda _: self._on_end(self))
        self._readers += 1
        try:
            position = 0
            while True:
                async with self._changed:
                    self._max_read = max(self._max_read, position)
                    self._changed.notify_all()
                    while position == len(self.events) and not self._ended:
                        await self._changed.wait()
                if position == len(self.events):
                    break
                yield self.events[position]
                position += 1
            if self._error is not None:
                raise self._error
        finally:
            self._readers -= 1
            if not self._readers and not self._task.done():
                self._task.cancel()
                await asyncio.wait({self._task})

    @property
    def open(self) -> bool:
        """Whether another reader may join: not after a failure, nor while it is being cancelled."""
        return self._error is None and (self._readers > 0 or self._task is None)

    async def _run(self) -> None:
        try:
            await self._speak(self)
        except Exception as error:  # noqa: BLE001 - the readers raise it
            self._error = error
        async with self._changed:
            self._ended = True
            self._changed.notify_all()
