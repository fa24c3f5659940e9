"""Encodes a text that arrives in fragments as pieces of token ids, which do not depend on the fragments.

Two encoders have one interface. `SentenceEncoder` makes pieces of whole sentences, each for one run of the llm.
`InterleavedEncoder` returns ids as soon as they are certain, for an llm that generates speech while text still arrives.

Both work in steps: each method is a generator that yields the new pieces, none or more, after about STEP_CHARACTERS of
text. A caller that serves several streams takes one step of each in turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, repeat

import regex

from services.encode.text.frontend import TextFrontend
from services.encode.text.interleaved import InterleavedEncoder
from services.encode.text.markup.items import PLAIN, Border, Item, Pause, Text, Warnings
from services.encode.text.normalise import HAN_LANGUAGES, language_of, only_punctuation
from services.encode.text.pieces import MAX_CHARACTERS, PLAIN_REQUEST, STEP_CHARACTERS, Piece, TextEncoder, TextRequest
from services.encode.text.segment import Segmenter
from services.encode.text.split import Merger, Span, SplitLanguage, as_sentence, shortened, utterances, with_final_mark
from services.encode.text.text_input import TextInput
from services.encode.text.words import Word, WordIds, divided, mapped, moved, placed, word_ids

__all__ = ["MAX_CHARACTERS", "STEP_CHARACTERS", "InterleavedEncoder", "Piece", "SentenceEncoder", "TextEncoder"]

TEXTS_MEASURED = 16
"""Texts whose ids are kept."""
_WIDE = regex.compile(r"[，。！？；、（）《》￥]")
_LATIN_WORDS = regex.compile(r"\p{Latin}{2}[ \t]+\p{Ll}{2}|(?<!\p{L})\p{Ll}{4}")


class SentenceEncoder:
    """Makes pieces of whole sentences: segments, normalises, splits and merges by the family's rules (spec section 2).

    The family selects its Chinese or English rules from the whole text. A stream cannot do that, so without a language
    of the request the English rules apply until the first sentence with a Chinese character, and the Chinese rules from
    there on. Pauses, and changes of rate or loudness, end a piece.
    """

    def __init__(
        self, frontend: TextFrontend, max_characters: int = MAX_CHARACTERS, request: TextRequest = PLAIN_REQUEST
    ) -> None:
        self._frontend = frontend
        self._request = request
        self._input = TextInput(frontend, max_characters, request)
        self._segmenter = Segmenter()
        self._encoded: dict[str, list[int]] = {}  # ids of the last texts, which are measured before they are spoken
        self._merger = Merger(frontend.split, lambda text: len(self._ids(text)), self._count_joined)
        self._language: SplitLanguage = "en"
        self._style = PLAIN
        self._started = False  # a sentence has preceded this one
        self._joined = False  # and nothing is between them

    @property
    def warnings(self) -> Warnings:
        return self._input.warnings

    @property
    def preamble(self) -> str:
        return self._input.preamble.found

    def push(self, fragment: str) -> Iterator[list[Piece]]:
        yield from self._take(self._input.push(fragment))

    def pause(self) -> Iterator[list[Piece]]:
        """Yield all complete sentences, also one whose end is certain only because no text follows.

        Half a sentence stays: spoken separately it sounds worse than a late one.
        """
        for pieces in chain(self._encode(self._segmenter.pause()), self._close()):
            yield [replace(piece, released=self._input.received) for piece in pieces]

    def finish(self) -> Iterator[list[Piece]]:
        yield from self._take(self._input.finish())
        yield from self._encode(self._segmenter.flush())
        yield from self._close()
        self._input.check_spoken()

    def _take(self, items: Iterable[Item]) -> Iterator[list[Piece]]:
        for item in items:
            match item:
                case Text():
                    if item.style != self._style and item.text.strip():
                        yield from self._cut()
                        self._style = item.style
                    self._input.add(item)
                    yield from self._encode(self._segmenter.push(item.text))
                case Border():
                    yield from self._encode(self._segmenter.flush())
                case Pause():
                    yield from self._cut()
                    yield [self._input.silence(item)]

    def _cut(self) -> Iterator[list[Piece]]:
        """Yield all text so far, because the next utterance is spoken differently or after a pause."""
        yield from self._encode(self._segmenter.flush(), inside=True)
        self._joined = False
        yield from self._close()

    def _close(self) -> Iterator[list[Piece]]:
        if pieces := self._pieces(self._merger.close(self._language)):
            yield pieces

    def _encode(self, segments: Iterable[Span], *, inside: bool = False) -> Iterator[list[Piece]]:
        """`inside`: the last segment may end inside a sentence."""
        ready: list[Span] = []
        characters = 0
        for segment in segments:
            start, end = self._input.translate(segment.start, segment.end)
            for text, words in self._utterances(segment, inside=inside):
                ready += self._merger.push(Span(text, start, end, words), self._language)
            characters += len(segment.text)
            if characters >= STEP_CHARACTERS:
                yield self._pieces(ready)
                ready, characters = [], 0
        if characters:
            yield self._pieces(ready)

    def _utterances(self, span: Span, *, inside: bool) -> Iterable[tuple[str, tuple[Word, ...]]]:
        """Return the utterances of a segment, each with its words if they are wanted."""
        segment = span.text
        core = segment.strip()
        if not core:
            return []
        rules = self._rules(core)
        # White space between English sentences belongs to the second: it determines its first token.
        blank = segment[: len(segment) - len(segment.lstrip())] if self._started and self._language == "en" else ""
        if blank and not blank.strip("\r\n\t "):
            blank = " "  # a line end is read as a blank
        elif self._joined and self._language == "en" and core[0].isalnum() and core[0].isascii():
            blank = blank or " "  # the sentences touch: `12345.Let me`
        read = self._frontend.read(core, rules, self._request.lexicon, self.warnings)
        if only_punctuation(read.strip()):
            return []
        self._started = self._joined = True
        if core.endswith("、") and read.endswith("。"):
            read = f"{read[:-1]}、"  # an item of an enumeration, which the family's rules take for the end of the text
        text = blank + read
        if inside and text[-1].isalnum():
            text += "，" if self._language == "zh" else ","
        elif not text.endswith(("…", ",", "，")):
            text = with_final_mark(text, self._language)
        parts, spoken = self._parts(text)
        if not self._request.words:
            return zip(spoken, repeat(()), strict=False)
        words = self._words(core, read, span.start + segment.index(core), rules)
        return zip(spoken, divided(text, moved(words, len(blank)), parts), strict=True)

    def _parts(self, text: str) -> tuple[list[str], list[str]]:
        """Return the parts of a text that are spoken on their own: as they are in it, and as they are spoken."""
        split = self._frontend.split
        parts: list[str] = []
        spoken: list[str] = []
        for utterance in utterances(text, self._language, split.comma_split, whole_names=True):
            *before, last = shortened(utterance, split.longest, self._length)
            parts += [*before, last]
            spoken += [*(as_sentence(part, self._language) for part in before), last]
        return parts, spoken

    def _length(self, text: str) -> int:
        return len(text) if self._language == "zh" else len(self._ids(text))

    def _words(self, written: str, read: str, start: int, rules: str) -> list[Word]:
        """Return the words of a sentence, which begins at `start` in the text that the segmenter got."""

        def alone(part: str) -> str:
            return self._frontend.read(part, rules, self._request.lexicon, Warnings())

        return placed(
            mapped(written, read, alone), lambda begin, end: self._input.translate(start + begin, start + end)
        )

    def _rules(self, segment: str) -> str:
        """Return the language whose rules read a sentence, and choose how its text is split."""
        language = self._input.language
        if not language and segment.isascii():
            return self._language
        chinese = language_of(segment) == "zh"
        if not language:
            self._language = "zh" if chinese else self._language
            return "zh" if self._is_chinese_without_letters(segment) else self._language
        if chinese and language not in HAN_LANGUAGES:
            language = "zh"
        self._language = "zh" if language in ("zh", "yue", "ja") else "en"
        return "zh" if language == "yue" else language

    def _is_chinese_without_letters(self, segment: str) -> bool:
        """Return whether only the marks of a segment are Chinese: `100km/h，5kg`."""
        return (
            not segment.isascii()
            and _WIDE.search(segment) is not None
            and (segment.endswith("、") or _LATIN_WORDS.search(segment) is None)
            and self._frontend.speaks("zh")
        )

    def _pieces(self, spans: list[Span]) -> list[Piece]:
        tag = self._frontend.language_tag_ids(self._input.language)
        pieces = [
            Piece(
                span.text,
                (*tag, *self._ids(span.text)),
                span.start,
                span.end,
                style=self._style,
                words=self._word_ids(span, len(tag)),
            )
            for span in spans
            if not only_punctuation(span.text.strip())
        ]
        self._input.spoken = self._input.spoken or bool(pieces)
        return pieces

    def _word_ids(self, span: Span, before: int) -> tuple[WordIds, ...]:
        return word_ids(span.words, self._frontend.tokenizer.offsets(span.text), before) if span.words else ()

    def _ids(self, text: str) -> list[int]:
        ids = self._encoded.get(text)
        return self._kept(text, self._frontend.tokenizer.encode(text)) if ids is None else ids

    def _count_joined(self, first: str, second: str) -> int:
        """Return the number of ids of both texts together; encode only the second, if the first was before."""
        if not self._frontend.tokenizer.joins(first, second):
            return len(self._ids(first + second))
        return len(self._kept(first + second, self._ids(first) + self._ids(second)))

    def _kept(self, text: str, ids: list[int]) -> list[int]:
        if len(self._encoded) >= TEXTS_MEASURED:
            del self._encoded[next(iter(self._encoded))]
        self._encoded[text] = ids
        return ids
