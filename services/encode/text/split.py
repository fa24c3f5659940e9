"""Splits normalised text into pieces, each for one run of the llm (spec section 2.3)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from services.common.checkpoint.model_dir import SplitConfig
from services.encode.text.words import Word, moved

SplitLanguage = Literal["zh", "en"]
"""Whose marks and lengths count: those of Chinese, or those of scripts with blanks."""
TERMINATORS: dict[SplitLanguage, str] = {"zh": "。？！；：、.?!;", "en": ".?!;:"}
_MARKS = {
    (language, comma_split): re.compile(f"[{re.escape(marks + ('，,' if comma_split else ''))}]")
    for language, marks in TERMINATORS.items()
    for comma_split in (False, True)
}
QUOTES = '"”'
_PAUSE = re.compile(r",(?=\s)|[，、—–](?!$)| (?=\()")
_CLAUSE, _PHRASE = (
    re.compile(rf" (?=(?:{words})\b)", re.IGNORECASE)
    for words in (
        "and|but|or|nor|so|yet|because|although|though|unless|until|since|while|whereas|if|when|where|who|whose|which|that|"
        "than|as|before|after",
        "to|in|on|at|with|without|for|from|into|of|by|over|under|about|through|during|between|behind|against",
    )
)
_PLACES = (_PAUSE, _CLAUSE, _PHRASE, re.compile(" "))
"""Where a sentence may be divided, the best places first; the words are English."""
_NEAR = (0.4, 0.3, 0.2, 1.0)
"""For each of them: how far from the wanted place it may be, as a part of the sentence."""
_FINAL_MARKS = TERMINATORS["zh"] + TERMINATORS["en"]


class Span(NamedTuple):
    """Text to speak and its characters [start, end) in the client's text."""

    text: str
    start: int = 0
    end: int = 0
    words: tuple[Word, ...] = ()
    """The words of `text`, if they are wanted; their other text is the client's."""


def with_final_mark(text: str, language: SplitLanguage) -> str:
    """Return `text` with a final full stop, unless it ends with a mark of either language."""
    if text[-1:] in _FINAL_MARKS:
        return text
    return text + ("。" if language == "zh" else ".")


def utterances(
    text: str, language: SplitLanguage, comma_split: bool = False, *, whole_names: bool = False
) -> Iterator[str]:
    """Cut the text after every mark that ends a clause. Of consecutive marks only the first is kept.

    A closing quote right after the mark stays with it. The utterances joined are the text without repeated marks.
    `whole_names`: not at a mark between two letters or digits of ASCII, as in `example.com`; the family's rule cuts
    there too.
    """
    marks = _MARKS[language, comma_split]
    if len(text) > 1 and marks.search(text, 0, len(text) - 1) is None:  # by far the most frequent case
        yield text
        return
    current, start = "", 0
    for mark in marks.finditer(text):
        i = mark.start()
        if i < start or (whole_names and _in_name(text, i)):
            continue
        if i > start:
            if current:
                yield current
            current = text[start : i + 1]
        start = i + 1
        if current and text[start : start + 1] and text[start] in QUOTES:
            current += text[start]
            start += 1
    if current:
        yield current
    if text[start:]:
        yield text[start:]


def _in_name(text: str, mark: int) -> bool:
    around = text[mark - 1 : mark] + text[mark + 1 : mark + 2]
    return len(around) == 2 and around.isascii() and around.isalnum()


def shortened(text: str, longest: int, length: Callable[[str], int]) -> list[str]:
    """Divide an utterance that is longer than `longest` into parts of similar length; joined, they are `text`.

    A part ends at a pause, before a clause or before a phrase, if there is one not too far from the wanted place, or
    else between two words. A word that is longer than `longest` stays whole.
    """
    count = -(-length(text) // longest) if longest else 1
    if count < 2:
        return [text]
    wanted = len(text) * (count // 2) / count
    for places, near in zip(_PLACES, _NEAR, strict=True):
        ends = [place.start() + (not place.group().isspace()) for place in places.finditer(text, 1)]
        ends = [end for end in ends if text[:end].strip() and text[end:].strip()]
        best = min(ends, key=lambda end: abs(end - wanted), default=None)
        if best is not None and abs(best - wanted) <= near * len(text):
            return [part for half in (text[:best], text[best:]) for part in shortened(half, longest, length)]
    return [text]


def as_sentence(part: str, language: SplitLanguage) -> str:
    """Return a part of a divided sentence as a sentence: with a full stop, also in place of a pause."""
    return with_final_mark(part.rstrip(" ,，、—–"), language)


class Merger:
    """Joins short utterances into pieces, one utterance at a time.

    A piece ends if the next utterance would make it longer than `max_length` and it is longer than `min_length`. A last
    rest shorter than `merge_length` is joined to the piece before it. Lengths are characters for Chinese, token ids
    otherwise. A piece is returned as soon as no later utterance can change it, so a text and a stream of its fragments
    give the same pieces.
    """

    def __init__(
        self,
        config: SplitConfig,
        count_tokens: Callable[[str], int],
        count_joined: Callable[[str, str], int] | None = None,
    ) -> None:
        """`count_joined`: count the tokens of two texts together, if there is a quicker way than for their sum."""
        self._config = config
        self._count_tokens = count_tokens
        self._count_joined = count_joined or (lambda first, second: count_tokens(first + second))
        self._held: Span | None = None  # complete, but a short last rest may still be joined to it
        self._current: Span | None = None
        self._current_length = 0
        self._current_language: SplitLanguage | None = None  # whose rules measured it

    def push(self, utterance: Span, language: SplitLanguage) -> list[Span]:
        ready: list[Span] = []
        length: int | None = None
        if self._current is not None:
            joined = self._joined_length(self._current.text, utterance.text, language)
            if joined > self._config.max_length and self._long_enough(language):
                ready += self._complete()
            else:
                length = joined
        self._current = _join(self._current, utterance)
        length = self._length(self._current.text, language) if length is None else length
        self._current_length, self._current_language = length, language
        if length >= self._config.max_length and self._long_enough(language):
            ready += self._complete()
        elif self._held is not None and length >= self._config.merge_length:
            ready.append(self._held)
            self._held = None
        return ready

    def close(self, language: SplitLanguage) -> list[Span]:
        """Return the rest; the merger is empty afterwards."""
        held, rest = self._held, self._current
        self._held = self._current = None
        if held is not None and rest is not None and self._length(rest.text, language) < self._config.merge_length:
            return [_join(held, rest)]
        return [span for span in (held, rest) if span is not None]

    def _complete(self) -> list[Span]:
        ready = [span for span in (self._held,) if span is not None]
        self._held, self._current = self._current, None
        if self._config.merge_length <= 0 and self._held is not None:  # no rest is short enough to be joined to it
            ready.append(self._held)
            self._held = None
        return ready

    def _long_enough(self, language: SplitLanguage) -> bool:
        if self._current is None:
            return False
        if self._current_language != language:
            return self._length(self._current.text, language) > self._config.min_length
        return self._current_length > self._config.min_length

    def _joined_length(self, first: str, second: str, language: SplitLanguage) -> int:
        return len(first) + len(second) if language == "zh" else self._count_joined(first, second)

    def _length(self, text: str, language: SplitLanguage) -> int:
        return len(text) if language == "zh" else self._count_tokens(text)


def split_text(
    text: str, language: SplitLanguage, config: SplitConfig, count_tokens: Callable[[str], int]
) -> list[str]:
    """Return the pieces of a complete normalised text, which must not be empty."""
    merger = Merger(config, count_tokens)
    pieces: list[Span] = []
    for utterance in utterances(with_final_mark(text, language), language, config.comma_split):
        pieces += merger.push(Span(utterance), language)
    pieces += merger.close(language)
    return [piece.text for piece in pieces]


def _join(first: Span | None, second: Span) -> Span:
    if first is None:
        return second
    words = first.words + moved(second.words, len(first.text))
    return Span(first.text + second.text, first.start, second.end, words)
