"""What encoders of text take and return."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from services.encode.text.markup.items import PLAIN, Style, Warnings
from services.encode.text.pronunciation.lexicon import NO_LEXICON, Lexicon
from services.encode.text.segment import MAX_SEGMENT
from services.encode.text.words import WordIds

MAX_CHARACTERS = 20_000
"""Default limit of a request's text: about half an hour of speech."""
STEP_CHARACTERS = MAX_SEGMENT
"""Least text of one step. A step is at most one sentence (MAX_SEGMENT characters) longer; in interleaved text a word
without an end makes it as long as the word."""


@dataclass(frozen=True)
class TextRequest:
    """How a client wants its text read."""

    language: str = ""
    """Primary subtag of BCP-47, in lower case. Empty: Chinese from the first Chinese sentence on, otherwise English."""
    lexicon: Lexicon = NO_LEXICON
    timbre_only: bool = False
    """The prompt gives only the timbre, so a preamble of the text takes the place of the prompt's text."""
    words: bool = False
    """Find the words that the ids speak."""


PLAIN_REQUEST = TextRequest()


@dataclass(frozen=True)
class Piece:
    """Token ids in spoken order, and their characters [start, end) in the request's text."""

    text: str
    """The spoken text, after normalisation."""
    ids: tuple[int, ...]
    start: int
    end: int
    final: bool = True
    """Whether the utterance ends here. After an interleaved piece that is not final, it continues in the next one."""
    silence: float = 0.0
    """Seconds; the piece is silence instead of text, an utterance of its own."""
    style: Style = PLAIN
    released: int | None = None
    """Characters received before the pause that released these ids."""
    words: tuple[WordIds, ...] = ()
    """The words of the client's text, if they are wanted."""


class TextEncoder(Protocol):
    """Take all steps of one call before the next call. The text is checked at the first step."""

    @property
    def warnings(self) -> Warnings:
        """Notes about the text so far."""
        ...

    @property
    def preamble(self) -> str:
        """The preamble of the text, which is not spoken; known when the first piece is."""
        ...

    def push(self, fragment: str) -> Iterator[list[Piece]]:
        """Yield the pieces that `fragment` completes, one list for each step."""
        ...

    def pause(self) -> Iterator[list[Piece]]:
        """Yield text held back for a continuation, because the client has paused."""
        ...

    def finish(self) -> Iterator[list[Piece]]:
        """Yield all text held back, at the end of the text. Raises InvalidInput if the text had nothing to speak."""
        ...
