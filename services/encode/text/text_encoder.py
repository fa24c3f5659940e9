"""Encodes a text that arrives in fragments as pieces of token ids, which do not depend on the fragments.

Two encoders have one interface. `SentenceEncoder` makes pieces of whole sentences, each for one run of the llm.
`InterleavedEncoder` returns ids as soon as they are certain, for an llm that generates speech while text still arrives.

Both work in steps: each method is a generator that yields the new pieces, none or more, after about STEP_CHARACTERS of
text. A caller that serves several streams takes one step of each in turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import regex

from services.common.errors import InvalidInput
from services.encode.text.frontend import TextFrontend
from services.encode.text.normalise import Language, is_verbatim, language_of, only_punctuation
from services.encode.text.segment import MAX_SEGMENT, Segmenter
from services.encode.text.split import Merger, Span, utterances, with_final_mark

MAX_CHARACTERS = 20_000
"""Default limit of a request's text: about half an hour of speech."""
STEP_CHARACTERS = MAX_SEGMENT
"""Least text of one step. A step is at most one sentence (MAX_SEGMENT characters) longer; in interleaved text a word
without an end makes it as long as the word."""


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
    """Take all steps of one call before the next call. The text is checked at the first step."""

    def push(self, fragment: str) -> Iterator[list[Piece]]:
        """Yield the pieces that `fragment` completes, one list for each step."""
        ...

    def pause(self) -> Iterator[list[Piece]]:
        """Yield text held back for a continuation, because the client has paused."""
        ...

    def finish(self) -> Iterator[list[Piece]]:
        """Yield all text held back, at the end of the text. Raises InvalidInput if the text had nothing to speak."""
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

    def push(self, fragment: str) -> Iterator[list[Piece]]:
        self._checks.accept(fragment)
        yield from self._encode(self._segmenter.push(fragment))

    def pause(self) -> Iterator[list[Piece]]:
        """Yield all complete sentences, also one whose end is certain only because no text follows.

        Half a sentence stays: spoken separately it sounds worse than a late one.
        """
        yield from self._encode(self._segmenter.pause())
        if pieces := self._pieces(self._merger.close(self._language)):
            yield pieces

    def finish(self) -> Iterator[list[Piece]]:
        yield from self._encode(self._segmenter.flush())
        pieces = self._pieces(self._merger.close(self._language))
        if not self._spoken:
            raise self._checks.nothing_spoken()
        yield pieces

    def _encode(self, segments: Iterable[Span]) -> Iterator[list[Piece]]:
        ready: list[Span] = []
        characters = 0
        for segment in segments:
            if language_of(segment.text) == "zh":
                self._language = "zh"
            for utterance in self._utterances(segment.text):
                ready += self._merger.push(Span(utterance, segment.start, segment.end), self._language)
            characters += len(segment.text)
            if characters >= STEP_CHARACTERS:
                yield self._pieces(ready)
                ready, characters = [], 0
        if characters:
            yield self._pieces(ready)

    def _utterances(self, segment: str) -> list[str]:
        core = segment.strip()
        if not core:
            return []
        # White space between English sentences belongs to the second: it determines its first token.
        blank = segment[: len(segment) - len(segment.lstrip())] if self._started and self._language == "en" else ""
        if blank and not blank.strip("\r\n\t "):
            blank = " "  # a line end is read as a blank
        self._started = True
        if is_verbatim(core):
            return [blank + core]
        text = blank + self._frontend.normaliser(core, self._language)
        if not text.endswith("…"):
            text = with_final_mark(text, self._language)
        return list(utterances(text, self._language, self._frontend.split.comma_split, whole_names=True))

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
        self._scanned = 0  # the rest of self._text has not been searched for boundaries
        self._bracketed = False  # self._text[: self._scanned] ends inside a bracket

    def push(self, fragment: str) -> Iterator[list[Piece]]:
        self._checks.accept(fragment)
        self._text += fragment
        yield from self._take_certain()

    def pause(self) -> Iterator[list[Piece]]:
        """Yield the last word too, unless it is an open bracket, which may become a special token.

        If the word continues after the pause, its ids are those of two words; without a pause they never are.
        """
        if self._text and not self._bracketed:
            yield [self._take(len(self._text), final=False)]

    def finish(self) -> Iterator[list[Piece]]:
        pieces = [self._take(len(self._text), final=True)] if self._text else []
        if not self._spoken:
            raise self._checks.nothing_spoken()
        yield pieces

    def _take_certain(self) -> Iterator[list[Piece]]:
        """Take the text up to the last place before which the ids are certain, in steps; scan each character once.

        Between a letter or digit and a space or mark, the tokenizer's word ends whatever follows. A bracket, closed or
        not, may contain a special token, so no place inside it is safe.
        """
        text, taken, safe = self._text, 0, 0
        scanned = self._scanned
        places = (match.start() for match in _BOUNDARY.finditer(text, scanned))
        for place in chain(places, (len(text),)):
            for bracket in _BRACKETS.finditer(text, scanned, place):
                self._bracketed = bracket.group() in "[<"
            scanned = place
            if self._bracketed or place == len(text):
                continue
            safe = place
            if safe - taken >= STEP_CHARACTERS:
                yield [self._take(safe - taken, final=False)]
                taken = safe
        self._scanned = len(self._text)
        if safe > taken:
            yield [self._take(safe - taken, final=False)]

    def _take(self, end: int, *, final: bool) -> Piece:
        text, self._text = self._text[:end], self._text[end:]
        start, self._offset = self._offset, self._offset + end
        self._scanned = max(0, self._scanned - end)
        self._spoken = self._spoken or not only_punctuation(regex.sub(r"\s", "", text))
        return Piece(text, tuple(self._frontend.tokenizer.encode(text)), start, start + end, final)


_BOUNDARY = regex.compile(r"(?<=[\p{L}\p{N}])(?=[ \p{P}])")
_BRACKETS = regex.compile(r"[\[<\]>\s]")
