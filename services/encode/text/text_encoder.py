"""Encodes a text that arrives in fragments as pieces of token ids, which do not depend on the fragments.

Two encoders have one interface. `SentenceEncoder` makes pieces of whole sentences, each for one run of the llm.
`InterleavedEncoder` returns ids as soon as they are certain, for an llm that generates speech while text still arrives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import regex

from services.common.errors import InvalidInput
from services.encode.text.frontend import TextFrontend
from services.encode.text.normalise import Language, is_verbatim, language_of, only_punctuation
from services.encode.text.segment import Segmenter
from services.encode.text.split import Merger, Span, utterances, with_final_mark

MAX_CHARACTERS = 20_000
"""Default limit of a request's text: about half an hour of speech."""


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


class TextEncoder(Protocol):
    def push(self, fragment: str) -> list[Piece]:
        """Return the pieces that `fragment` completes."""
        ...

    def pause(self) -> list[Piece]:
        """Return text held back for a continuation, because the client has paused."""
        ...

    def finish(self) -> list[Piece]:
        """Return all text held back, at the end of the text. Raises InvalidInput if the text had nothing to speak."""
        ...


class _InputChecks:
    """The checks that both encoders make of every fragment."""

    def __init__(self, frontend: TextFrontend, max_characters: int) -> None:
        self._frontend = frontend
        self._max_characters = max_characters
        self._received = 0

    def accept(self, fragment: str) -> None:
        self._received += len(fragment)
        if self._received > self._max_characters:
            raise InvalidInput(
                f"text is longer than {self._max_characters} characters; send it in several requests", field="text"
            )
        self._frontend.check(fragment)

    def nothing_spoken(self) -> InvalidInput:
        if not self._received:
            return InvalidInput("text is empty; send at least one word", field="text")
        return InvalidInput(
            "text has nothing to speak, only punctuation or blanks; send at least one word", field="text"
        )


class SentenceEncoder:
    """Makes pieces of whole sentences: segments, normalises, splits and merges by the family's rules (spec section 2).

    The family selects its Chinese or English rules from the whole text. A stream cannot do that, so here the English
    rules apply until the first sentence with a Chinese character, and the Chinese rules from there on. Sentences with
    control tokens (`<|...|>`) are not changed.
    """

    def __init__(self, frontend: TextFrontend, max_characters: int = MAX_CHARACTERS) -> None:
        self._frontend = frontend
        self._checks = _InputChecks(frontend, max_characters)
        self._segmenter = Segmenter()
        self._merger = Merger(frontend.split, lambda text: len(frontend.tokenizer.encode(text)))
        self._language: Language = "en"
        self._started = False  # a sentence has preceded this one
        self._spoken = False

    def push(self, fragment: str) -> list[Piece]:
        self._checks.accept(fragment)
        return self._encode(self._segmenter.push(fragment))

    def pause(self) -> list[Piece]:
        return []  # half a sentence spoken separately sounds worse than a late one

    def finish(self) -> list[Piece]:
        pieces = self._encode(self._segmenter.flush()) + self._pieces(self._merger.close(self._language))
        if not self._spoken:
            raise self._checks.nothing_spoken()
        return pieces

    def _encode(self, segments: list[Span]) -> list[Piece]:
        ready: list[Span] = []
        for segment in segments:
            if language_of(segment.text) == "zh":
                self._language = "zh"
            for utterance in self._utterances(segment.text):
                ready += self._merger.push(Span(utterance, segment.start, segment.end), self._language)
        return self._pieces(ready)

    def _utterances(self, segment: str) -> list[str]:
        core = segment.strip()
        if not core:
            return []
        # White space between English sentences belongs to the second: it determines its first token.
        blank = segment[: len(segment) - len(segment.lstrip())] if self._started and self._language == "en" else ""
        self._started = True
        if is_verbatim(core):
            return [blank + core]
        text = with_final_mark(blank + self._frontend.normaliser(core, self._language), self._language)
        return list(utterances(text, self._language, self._frontend.split.comma_split))

    def _pieces(self, spans: list[Span]) -> list[Piece]:
        pieces = [
            Piece(span.text, tuple(self._frontend.tokenizer.encode(span.text)), span.start, span.end)
            for span in spans
            if not only_punctuation(span.text.strip())
        ]
        self._spoken = self._spoken or bool(pieces)
        return pieces


class InterleavedEncoder:
    """Makes ids of the text without normalisation, as in the models' streaming training (spec section 2.1, step 1).

    Holds back the text after the last safe boundary, where later text cannot change the ids before it: before a space
    or mark that follows a word, never inside `[...]` or `<...>`. The ids of all pieces are those of the whole text.
    """

    def __init__(self, frontend: TextFrontend, max_characters: int = MAX_CHARACTERS) -> None:
        self._frontend = frontend
        self._checks = _InputChecks(frontend, max_characters)
        self._text = ""
        self._offset = 0
        self._spoken = False

    def push(self, fragment: str) -> list[Piece]:
        self._checks.accept(fragment)
        self._text += fragment
        end = _last_safe_boundary(self._text)
        return [self._take(end, final=False)] if end else []

    def pause(self) -> list[Piece]:
        """Return the last word too, unless it is an open bracket, which may become a special token.

        If the word continues after the pause, its ids are those of two words; without a pause they never are.
        """
        return [] if not self._text or _OPENED.search(self._text) else [self._take(len(self._text), final=False)]

    def finish(self) -> list[Piece]:
        pieces = [self._take(len(self._text), final=True)] if self._text else []
        if not self._spoken:
            raise self._checks.nothing_spoken()
        return pieces

    def _take(self, end: int, *, final: bool) -> Piece:
        text, self._text = self._text[:end], self._text[end:]
        start, self._offset = self._offset, self._offset + end
        self._spoken = self._spoken or not only_punctuation(regex.sub(r"\s", "", text))
        return Piece(text, tuple(self._frontend.tokenizer.encode(text)), start, start + end, final)


_BOUNDARY = regex.compile(r"(?<=[\p{L}\p{N}])(?=[ \p{P}])")
_OPENED = regex.compile(r"[\[<][^\]>\s]*$")


def _last_safe_boundary(text: str) -> int:
    """Return the last place in `text` before which the ids are certain; 0 if there is none.

    Between a letter or digit and a space or mark, the tokenizer's word ends whatever follows. A bracket, closed or not,
    may contain a special token, so no place inside it is safe.
    """
    for match in reversed(list(_BOUNDARY.finditer(text))):
        if not _OPENED.search(text, 0, match.start()):
            return match.start()
    return 0
