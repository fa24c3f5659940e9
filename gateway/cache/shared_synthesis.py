"""One synthesis that several may listen to while it is made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from gateway.session.output import Event, Events

AHEAD = 4
"""Events made before the fastest listener has taken them: as a lone listener would, all of them hold it back."""


class SharedSynthesis:
    """Begun by its first listener; ends when it is complete, or when the last listener has gone."""

    def __init__(
        self, speak: Callable[[SharedSynthesis], Awaitable[None]], on_end: Callable[[SharedSynthesis], None]
    ) -> None:
        """`speak` calls `fill` once; what it raises reaches every listener, after the events before it."""
        self.events: list[Event] = []
        self._speak = speak
        self._on_end = on_end
        self._listeners = 0
        self._furthest = 0
        self._ended = False
        self._error: Exception | None = None
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def fill(self, events: Events) -> None:
        """Takes over the events of a session."""
        async for event in events:
            async with self._changed:
                self.events.append(event)
                self._changed.notify_all()
                await self._changed.wait_for(lambda: len(self.events) - self._furthest < AHEAD)

    async def listen(self) -> AsyncGenerator[Event]:
        """All events from the first one. To be closed by whoever stops early."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
            self._task.add_done_callback(lambda _: self._on_end(self))
        self._listeners += 1
        try:
            position = 0
            while True:
                async with self._changed:
                    self._furthest = max(self._furthest, position)
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
            self._listeners -= 1
            if not self._listeners and not self._task.done():
                self._task.cancel()
                await asyncio.wait({self._task})

    @property
    def open(self) -> bool:
        """Whether one more may listen: not when it failed, nor when it is being given up."""
        return self._error is None and (self._listeners > 0 or self._task is None)

    async def _run(self) -> None:
        try:
            await self._speak(self)
        except Exception as error:  # noqa: BLE001 - whatever happened belongs to the listeners, who raise it
            self._error = error
        async with self._changed:
            self._ended = True
            self._changed.notify_all()
