"""Text that waits to be encoded, and the borders a client drew in it."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Flush:
    """Everything before is to be spoken now; the `number`-th of its session."""

    number: int


@dataclass(frozen=True)
class End:
    """No text follows."""


Boundary: TypeAlias = Flush | End


class TextQueue:
    """Never makes the writer wait, so that a cancel behind a lot of text is seen; the session bounds what it puts."""

    def __init__(self) -> None:
        self._items: deque[str | Boundary] = deque()
        self._filled = asyncio.Event()

    def put(self, item: str | Boundary) -> None:
        self._items.append(item)
        self._filled.set()

    @property
    def empty(self) -> bool:
        """Whether a `take` would wait."""
        return not self._items

    async def take(self) -> str | Boundary:
        """The next border, or all text up to it, whatever fragments it came in."""
        await self._filled.wait()
        text: list[str] = []
        while self._items and isinstance(item := self._items[0], str):
            text.append(item)
            self._items.popleft()
        taken = "".join(text) if text else self._items.popleft()
        if not self._items:
            self._filled.clear()
        return taken
