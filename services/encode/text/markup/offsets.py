"""Maps places in the text that is spoken to places in the client's text, which has marks in addition."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class _Part:
    """Spoken characters [begin, begin + length) and the characters [start, end) of the client's text they come from."""

    begin: int
    length: int
    start: int
    end: int

    @property
    def one_to_one(self) -> bool:
        return self.length == self.end - self.start


class Offsets:
    """Records the parts of a text in order, and translates spans of it in order."""

    def __init__(self) -> None:
        self._parts: deque[_Part] = deque()
        self._length = 0

    def add(self, length: int, start: int, end: int) -> None:
        """Record the next `length` spoken characters; they come from the client's characters [start, end)."""
        if not length:
            return
        last = self._parts[-1] if self._parts else None
        if last is not None and last.one_to_one and last.end == start and length == end - start:
            self._parts[-1] = _Part(last.begin, last.length + length, last.start, end)
        else:
            self._parts.append(_Part(self._length, length, start, end))
        self._length += length

    def translate(self, begin: int, end: int) -> tuple[int, int]:
        """Return the client's characters of the spoken characters [begin, end), which must not be empty.

        Spans before `begin` are not asked for any more.
        """
        while self._parts[0].begin + self._parts[0].length <= begin:
            self._parts.popleft()
        first = self._parts[0]
        start = first.start + (begin - first.begin if first.one_to_one else 0)
        for part in self._parts:
            if end <= part.begin + part.length:
                return start, part.start + end - part.begin if part.one_to_one else part.end
        return start, self._parts[-1].end
