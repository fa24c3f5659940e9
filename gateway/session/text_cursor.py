"""How far the text of a session is, and what the session waits for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import Enum, auto


@dataclass
class TextCursor:
    """Offsets in the text of a session, in characters. They grow: `spoken` <= `encoded` <= `received`."""

    received: int = 0
    to_speak: int = 0
    """Received, up to the last letter or digit; nothing after it is spoken."""
    encoded: int = 0
    """The segments up to here have been encoded."""
    spoken: int = 0
    """The audio up to here has been sent."""
    marked: int = 0
    """The text up to here has had its mark; what `spoken` leaves out of it has no words."""

    @property
    def waiting(self) -> int:
        """Characters that have not been spoken and can still be."""
        return self.received - max(self.spoken, self.marked)

    @property
    def idle(self) -> bool:
        """Whether no text waits to be spoken."""
        return self.spoken >= self.to_speak

    def receive(self, text: str) -> None:
        if words := _speakable_length(text):
            self.to_speak = self.received + words
        self.received += len(text)

    def skip(self) -> None:
        """Record that nothing of the text received so far will be spoken any more."""
        self.to_speak = min(self.to_speak, self.spoken)

    def cut(self) -> None:
        """Drop all text received so far, as after a barge-in."""
        self.to_speak = self.encoded = self.spoken = self.received


class SessionState(Enum):
    """What a session waits for. `SessionProgress` makes the transitions."""

    STARTING = auto()
    """The voice; Started has not been sent. Text may be received already."""
    QUIET = auto()
    """Text."""
    SPEAKING = auto()
    """Speech of the text received."""
    LEAVING = auto()
    """The client, which is asked to reconnect to another gateway. Text that is still received is spoken."""


@dataclass
class SessionProgress:
    """The text and the state of a session:

    STARTING --started--> QUIET <--text, or all of it spoken--> SPEAKING
    QUIET --retired--> LEAVING, at once or as soon as it is quiet
    """

    text: TextCursor = field(default_factory=TextCursor)
    state: SessionState = SessionState.STARTING
    leaving: asyncio.Event = field(default_factory=asyncio.Event)
    """Set in the state LEAVING."""
    _retired: bool = False

    def start(self) -> None:
        """Record that Started was sent."""
        self.state = SessionState.QUIET
        self.update()

    def retire(self) -> None:
        """Leave as soon as no text waits to be spoken."""
        self._retired = True
        self.update()

    def update(self) -> None:
        """Follow a change of `text`."""
        if self.state not in (SessionState.QUIET, SessionState.SPEAKING):
            return
        self.state = SessionState.QUIET if self.text.idle else SessionState.SPEAKING
        if self._retired and self.state is SessionState.QUIET:
            self.state = SessionState.LEAVING
            self.leaving.set()


def _speakable_length(text: str) -> int:
    """Return the length of `text` up to and including its last letter or digit."""
    return next((end for end in range(len(text), 0, -1) if text[end - 1].isalnum()), 0)
