"""Text that waits to be encoded, with the boundaries set by the client."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Flush:
    """All text before it is to be spoken now. `number`: 0, 1, 2 ... in the session."""

    number: int
    text_offset: int = 0
    """Characters of the session's text before it."""


@dataclass(frozen=True)
class End:
    """The end of the text."""


@dataclass(frozen=True)
class Change:
    """The text that follows is spoken in another way. `context`: the turn's, a value that only the turn reads."""

    context: object


Boundary: TypeAlias = Flush | End | Change


class TextQueue:
    """Never blocks the writer, so that a cancel after a lot of text is seen. The session bounds the amount of text."""

    def __init__(self) -> None:
        self._items: deque[str | Boundary] = deque()
        self._filled = asyncio.Event()

    def put(self, item: str | Boundary) -> None:
        self._items.append(item)
        self._filled.set()

    @property
    def empty(self) -> bool:
        """Whether `take` would wait."""
        return not self._items

    async def take(self) -> str | Boundary:
        """Wait for an item; return the next boundary, or all text before it, joined."""
        await self._filled.wait()
        text: list[str] = []
        while self._items and isinstance(item := self._items[0], str):
            text.append(item)
            self._items.popleft()
        taken = "".join(text) if text else self._items.popleft()
        if not self._items:
            self._filled.clear()
        return taken
