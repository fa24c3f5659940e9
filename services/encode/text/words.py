"""Which characters of the client's text a word of the spoken text comes from, and which token ids speak it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import NamedTuple

import regex

# A character of a script without blanks is a word of its own; other words end at blanks.
_UNIT = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}]|[^\s\p{Han}\p{Hiragana}\p{Katakana}]+")
_EDGES = regex.compile(r"^[^\p{L}\p{M}\p{N}\p{S}%#&@]+|[^\p{L}\p{M}\p{N}\p{S}%#&@]+$")
_SPOKEN = regex.compile(r"[\p{L}\p{M}\p{N}]")


@dataclass(frozen=True)
class Word:
    """Characters [begin, stop) of a spoken text, and the characters [start, end) of another text they come from."""

    begin: int
    stop: int
    start: int
    end: int


class WordIds(NamedTuple):
    """A word of the client's text: its ids, by the first one's index and their number, and its characters."""

    first_id: int
    ids: int
    start: int
    end: int


class _Unit(NamedTuple):
    begin: int
    stop: int
    core: str
    """Without marks at its ends, in lower case; what two texts have in common."""


def mapped(written: str, spoken: str, read: Callable[[str], str]) -> list[Word]:
    """Return the words of `spoken`, which is how `written` is read; `read` reads a part of it.

    Words that are read as they are written correspond one by one. Between them, words that are read differently are
    told apart if each of them is read alone as in the sentence; otherwise they are one word.
    """
    if written == spoken:
        return [Word(unit.begin, unit.stop, unit.begin, unit.stop) for unit in _units(spoken)]
    left, right = list(_units(written)), list(_units(spoken))
    words: list[Word] = []
    same = SequenceMatcher(None, [unit.core for unit in left], [unit.core for unit in right], autojunk=False)
    for kind, from_left, to_left, from_right, to_right in same.get_opcodes():
        originals, readings = left[from_left:to_left], right[from_right:to_right]
        if kind == "equal":
            words += [_word([one], [other]) for one, other in zip(originals, readings, strict=True)]
        elif kind == "replace":
            words += _replaced(written, originals, readings, read)
        elif kind == "insert":
            words = _inserted(words, readings)
    return words


def _units(text: str) -> Iterator[_Unit]:
    for match in _UNIT.finditer(text):
        if _SPOKEN.search(match.group()):
            begin, core = match.start(), match.group()
            lead = _EDGES.match(core)
            begin += lead.end() if lead else 0
            core = _EDGES.sub("", core)
            yield _Unit(begin, begin + len(core), core.casefold())


def _word(originals: Sequence[_Unit], readings: Sequence[_Unit]) -> Word:
    return Word(readings[0].begin, readings[-1].stop, originals[0].begin, originals[-1].stop)


def _replaced(
    written: str, originals: Sequence[_Unit], readings: Sequence[_Unit], read: Callable[[str], str]
) -> list[Word]:
    if len(originals) > 1:
        counts = [len(list(_units(read(written[one.begin : one.stop])))) for one in originals]
        if sum(counts) == len(readings) and all(counts):
            words, at = [], 0
            for one, count in zip(originals, counts, strict=True):
                words.append(_word([one], readings[at : at + count]))
                at += count
            return words
    return [_word(originals, readings)]


def _inserted(words: list[Word], readings: Sequence[_Unit]) -> list[Word]:
    """Let the word before also speak readings that nothing is written for; without one they belong to no word."""
    if not words:
        return words
    return [*words[:-1], replace(words[-1], stop=readings[-1].stop)]


def placed(words: Iterable[Word], translate: Callable[[int, int], tuple[int, int]]) -> list[Word]:
    """Return the words with the characters that `translate` gives for theirs. Words with the same ones are one."""
    found: list[Word] = []
    for word in words:
        start, end = translate(word.start, word.end)
        if found and (found[-1].start, found[-1].end) == (start, end):
            found[-1] = replace(found[-1], stop=word.stop)
        else:
            found.append(replace(word, start=start, end=end))
    return found


def moved(words: Iterable[Word], by: int) -> tuple[Word, ...]:
    """Return words of a text that begins `by` characters later."""
    return tuple(replace(word, begin=word.begin + by, stop=word.stop + by) for word in words)


def divided(text: str, words: Sequence[Word], parts: Sequence[str]) -> list[tuple[Word, ...]]:
    """Return the words of each of `parts`, which joined are `text` without some of its characters.

    A word that reaches over the end of a part is in both, with the same characters of the client's text.
    """
    found: list[tuple[Word, ...]] = []
    place = 0
    for part in parts:
        places = []
        for char in part:
            place = text.index(char, place) + 1
            places.append(place - 1)
        inside = []
        for word in words:
            own = [at for at, here in enumerate(places) if word.begin <= here < word.stop]
            if own:
                inside.append(replace(word, begin=own[0], stop=own[-1] + 1))
        found.append(tuple(inside))
    return found


def word_ids(words: Sequence[Word], offsets: Sequence[tuple[int, int]], before: int = 0) -> tuple[WordIds, ...]:
    """Return the ids of each word. `offsets` are the characters of each id; `before` ids precede them.

    Words that share an id are one.
    """
    found: list[WordIds] = []
    at = 0
    for word in words:
        while at < len(offsets) and offsets[at][1] <= word.begin:
            at += 1
        stop = at
        while stop < len(offsets) and offsets[stop][0] < word.stop:
            stop += 1
        if stop == at:
            continue
        first, last = before + at, before + stop
        if found and found[-1].first_id + found[-1].ids > first:
            before_it = found.pop()
            first = before_it.first_id
            word = replace(word, start=before_it.start, end=max(word.end, before_it.end))
        found.append(WordIds(first, last - first, word.start, word.end))
    return tuple(found)
