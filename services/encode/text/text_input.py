"""The beginning of all work on a text: checks, the preamble, marks, and offsets in the client's text."""

from __future__ import annotations

from collections.abc import Iterator

from services.common.errors import InvalidInput
from services.encode.text.frontend import TextFrontend
from services.encode.text.markup.items import Item, Pause, Text, Warnings
from services.encode.text.markup.offsets import Offsets
from services.encode.text.markup.preamble import Preamble
from services.encode.text.markup.reader import MarkupReader
from services.encode.text.pieces import Piece, TextRequest
from services.encode.text.special_tokens import END_OF_PROMPT


class TextInput:
    """What both encoders do with the text first: checks, the preamble, marks, and offsets."""

    def __init__(self, frontend: TextFrontend, max_characters: int, request: TextRequest) -> None:
        self.received = 0
        self.spoken = False
        """Whether a piece was made."""
        self.preamble = Preamble()
        self._frontend = frontend
        self._max_characters = max_characters
        self._timbre_only = request.timbre_only
        self._reader = MarkupReader(frontend.sounds, frontend.pronouncer, request.language)
        self._offsets = Offsets()
        self._noted = False
        if request.language and not frontend.speaks(request.language):
            self.warnings.add(
                "language_not_spoken",
                f"this model speaks {frontend.languages}; only numbers and symbols are read in {request.language}",
            )

    @property
    def warnings(self) -> Warnings:
        return self._reader.warnings

    @property
    def language(self) -> str:
        """Of the request or of its SSML; empty if neither names one."""
        return self._reader.language

    def push(self, fragment: str) -> Iterator[Item]:
        self.received += len(fragment)
        if self.received > self._max_characters:
            raise InvalidInput(
                f"text is longer than {self._max_characters} characters; send it in several requests", field="text"
            )
        self._frontend.check(fragment)
        return self._reader.push(self._after_preamble(fragment))

    def finish(self) -> Iterator[Item]:
        yield from self._reader.push(self._after_preamble("", final=True))
        yield from self._reader.finish()

    def add(self, text: Text) -> None:
        """Record the offsets of text that an encoder gets next."""
        self._offsets.add(len(text.text), text.start, text.end)

    def translate(self, start: int, end: int) -> tuple[int, int]:
        """Return the client's characters of a span of the text that the encoder got."""
        shift = self._shift
        begin, stop = self._offsets.translate(start, end)
        return begin + shift, stop + shift

    def silence(self, pause: Pause) -> Piece:
        """Return the piece of a pause."""
        self.spoken = True
        return Piece("", (), pause.start + self._shift, pause.end + self._shift, silence=pause.seconds)

    @property
    def _shift(self) -> int:
        """Characters before the text that the reader got."""
        return len(self.preamble.found)

    def check_spoken(self) -> None:
        """Raise InvalidInput if the text had nothing to speak, unless something was left out with a warning."""
        if self.spoken or self.warnings.left_out:
            return
        if not self.received:
            raise InvalidInput("text is empty; send at least one word", field="text")
        raise InvalidInput(
            "text has nothing to speak, only punctuation or blanks; send at least one word", field="text"
        )

    def _after_preamble(self, fragment: str, *, final: bool = False) -> str:
        text = self.preamble.push(fragment, final=final)
        if self.preamble.found and not self._noted:
            self._noted = True
            if not self._timbre_only:
                self.warnings.add(
                    "preamble_dropped", f"the text before {END_OF_PROMPT} is not spoken, and has no effect"
                )
        return text
