"""What a marked text consists of."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeAlias

MAX_WARNINGS = 16
"""Most warnings about one text; further ones say nothing new."""
LONGEST_PAUSE = 10.0
"""Seconds."""


@dataclass(frozen=True)
class Style:
    """How text is spoken, as factors of the request's own rate and loudness."""

    speed: float = 1.0
    gain: float = 1.0


PLAIN = Style()


@dataclass(frozen=True)
class Text:
    """Text to speak and its characters [start, end) in the client's text. Of equal length: character by character."""

    text: str
    start: int
    end: int
    style: Style = PLAIN


@dataclass(frozen=True)
class Pause:
    """Silence in place of the characters [start, end)."""

    seconds: float
    start: int
    end: int


@dataclass(frozen=True)
class Border:
    """The end of a sentence."""


Item: TypeAlias = Text | Pause | Border


def shifted(item: Item, offset: int) -> Item:
    """Return an item whose characters are counted from `offset` characters before."""
    if isinstance(item, Border):
        return item
    return replace(item, start=item.start + offset, end=item.end + offset)


@dataclass(frozen=True)
class TextWarning:
    """A note for the author of a text."""

    code: str
    message: str


@dataclass
class Warnings:
    """Collects the warnings about one text, each once."""

    _new: list[TextWarning] = field(default_factory=list)
    _known: set[TextWarning] = field(default_factory=set)

    def add(self, code: str, message: str) -> None:
        warning = TextWarning(code, message)
        if warning not in self._known and len(self._known) < MAX_WARNINGS:
            self._known.add(warning)
            self._new.append(warning)

    @property
    def left_out(self) -> bool:
        """Whether a part of the text was left out."""
        return any(warning.code.endswith(("_dropped", "_ignored")) for warning in self._known)

    def take(self) -> list[TextWarning]:
        """Return the warnings that have not been taken."""
        taken, self._new = self._new, []
        return taken


def pause(seconds: float, start: int, end: int, warnings: Warnings) -> Pause:
    """Return a pause of at most LONGEST_PAUSE."""
    if seconds > LONGEST_PAUSE:
        warnings.add("pause_shortened", f"a pause has at most {LONGEST_PAUSE:g} s; {seconds:g} s were shortened")
    return Pause(min(seconds, LONGEST_PAUSE), start, end)
