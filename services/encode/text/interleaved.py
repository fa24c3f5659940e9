"""Encodes text of which every word is spoken as soon as it is certain, for an llm that speaks while text arrives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain

import regex

from services.encode.text.frontend import TextFrontend
from services.encode.text.markup.items import PLAIN, Border, Item, Pause, Text, Warnings
from services.encode.text.normalise import only_punctuation
from services.encode.text.pieces import MAX_CHARACTERS, PLAIN_REQUEST, STEP_CHARACTERS, Piece, TextRequest
from services.encode.text.pronunciation.lexicon_stream import LexiconStream
from services.encode.text.text_input import TextInput
from services.encode.text.words import WordIds, mapped, placed, word_ids


class InterleavedEncoder:
    """Makes ids of the text without normalisation, as in the models' streaming training (spec section 2.1, step 1).

    Holds back the text after the last safe boundary, where later text cannot change the ids before it: before a space
    or mark that follows a word, never inside `[...]` or `<...>`. The ids of all pieces are those of the whole text.
    """

    def __init__(
        self, frontend: TextFrontend, max_characters: int = MAX_CHARACTERS, request: TextRequest = PLAIN_REQUEST
    ) -> None:
        self._frontend, self._request = frontend, request
        self._input = TextInput(frontend, max_characters, request)
        self._lexicon = LexiconStream(request.lexicon, frontend.pronouncer, self._input.warnings)
        self._text = ""
        self._offset = 0
        self._style = PLAIN
        self._open = False  # an utterance has begun
        self._end_of_items = 0  # of the last text in the client's text
        self._end_of_last = 0  # of the last piece in the client's text
        self._scanned = 0  # the rest of self._text has not been searched for boundaries
        self._bracketed = False  # self._text[: self._scanned] ends inside a bracket

    @property
    def warnings(self) -> Warnings:
        return self._input.warnings

    @property
    def preamble(self) -> str:
        return self._input.preamble.found

    def push(self, fragment: str) -> Iterator[list[Piece]]:
        yield from self._read(self._input.push(fragment))

    def pause(self) -> Iterator[list[Piece]]:
        """Yield the last word too, unless it is an open bracket, which may become a special token.

        If the word continues after the pause, its ids are those of two words; without a pause they never are.
        """
        self._add(*self._lexicon.flush())
        length = len(self._text.rstrip())
        if length and not self._bracketed:
            piece = self._take(length, final=False)
            yield [replace(piece, released=self._input.received)]

    def finish(self) -> Iterator[list[Piece]]:
        yield from self._read(self._input.finish())
        yield from self._end()
        self._input.check_spoken()

    def _read(self, items: Iterable[Item]) -> Iterator[list[Piece]]:
        for item in items:
            match item:
                case Text():
                    if item.style != self._style and item.text.strip():
                        yield from self._end()
                        self._style = item.style
                    for plain in self._frontend.plain_characters(item):
                        self._add(*self._lexicon.push(plain))
                    yield from self._take_certain()
                case Border():
                    self._add(*self._lexicon.flush())
                    if self._text and not self._text[-1].isspace():
                        mark = ". " if self._text[-1].isalnum() else " "
                        self._add(Text(mark, self._end_of_items, self._end_of_items))
                case Pause():
                    yield from self._end()
                    yield [self._input.silence(item)]

    def _add(self, *texts: Text) -> None:
        for text in texts:
            self._input.add(text)
            self._text += text.text
            self._end_of_items = text.end

    def _end(self) -> Iterator[list[Piece]]:
        """Yield the rest, which ends the utterance."""
        self._add(*self._lexicon.flush())
        if self._open or not only_punctuation(regex.sub(r"\s", "", self._text)):
            yield [self._take(len(self._text), final=True)]
        else:  # nothing between two pauses
            self._offset += len(self._text)
            self._text, self._scanned, self._bracketed = "", 0, False

    def _take_certain(self) -> Iterator[list[Piece]]:
        """Take the text up to the last place before which the ids are certain, in steps; scan each character once.

        Between a letter or digit and a space or mark, the tokenizer's word ends whatever follows. A bracket, closed or
        not, may contain a special token, so no place inside it is safe.
        """
        text, taken, safe = self._text, 0, 0
        scanned = self._scanned
        places = self._boundaries(text, scanned)
        for place in chain(places, (len(text),)):
            for bracket in _BRACKETS.finditer(text, scanned, place):
                self._bracketed = bracket.group() in "[<"
            scanned = max(scanned, place)
            if self._bracketed or place == len(text):
                continue
            safe = place
            if safe - taken >= STEP_CHARACTERS:
                yield [self._take(safe - taken, final=False)]
                taken = safe
        self._scanned = len(self._text)
        if safe > taken:
            yield [self._take(safe - taken, final=False)]

    def _boundaries(self, text: str, scanned: int) -> Iterator[int]:
        """Yield the safe places from `scanned` on; with words, also those before marks that ended the text then."""
        if not self._request.words:
            return (match.start() for match in _BOUNDARY.finditer(text, scanned))
        begin = max(0, scanned - _MOST_MARKS)
        return (match.start() for match in _WORD_BOUNDARY.finditer(text, begin))

    def _take(self, end: int, *, final: bool) -> Piece:
        text, self._text = self._text[:end], self._text[end:]
        begin, self._offset = self._offset, self._offset + end
        start, stop = self._input.translate(begin, self._offset) if text else (self._end_of_last, self._end_of_last)
        self._end_of_last = stop
        self._scanned = max(0, self._scanned - end)
        self._input.spoken = self._input.spoken or not only_punctuation(regex.sub(r"\s", "", text))
        written = text
        text = self._frontend.sounds.guarded(self._frontend.pronouncer.with_phones(text, self.warnings))
        tag = () if self._open else self._frontend.language_tag_ids(self._input.language)
        self._open = not final
        ids = (*tag, *self._frontend.tokenizer.encode(text))
        words = self._words(written, text, begin, len(tag)) if self._request.words and text else ()
        return Piece(text, ids, start, stop, final, style=self._style, words=words)

    def _words(self, written: str, text: str, begin: int, before: int) -> tuple[WordIds, ...]:
        """Return the words of a piece, which begins at `begin` in the text that was read."""

        def alone(part: str) -> str:
            return self._frontend.pronouncer.with_phones(part, Warnings())

        words = placed(
            mapped(written, text, alone), lambda start, end: self._input.translate(begin + start, begin + end)
        )
        return word_ids(words, self._frontend.tokenizer.offsets(text), before)


_BOUNDARY = regex.compile(r"(?<=[\p{L}\p{N}])(?=[ \p{P}])")
_MOST_MARKS = 8
_WORD_BOUNDARY = regex.compile(
    rf"(?<=[\p{{L}}\p{{N}}])(?= |(?:(?![\[\]])\p{{P}}){{1,{_MOST_MARKS}}}[^\p{{L}}\p{{N}}\p{{P}}])"
)
"""A subset of those places, where a word of the listener ends too: not inside "don't" or "3.5"."""
_BRACKETS = regex.compile(r"[\[<\]>\s]")
