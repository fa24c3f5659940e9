"""Divides a stream of text into sentences that can be normalised separately, with their offsets in the text."""

from __future__ import annotations

from collections.abc import Iterator

import regex

from services.encode.text.normalise import ABBREVIATIONS
from services.encode.text.split import QUOTES, TERMINATORS, Span

MAX_SEGMENT = 400
"""A text without marks is cut at a comma or space within this many characters (about half a minute of speech). This
bounds the text that an unfinished sentence holds back."""

_MARKS = frozenset(TERMINATORS["zh"] + TERMINATORS["en"])
_WIDE_MARKS = frozenset(mark for mark in _MARKS if not mark.isascii())
_ABBREVIATION = regex.compile(rf"\b(?:{'|'.join(ABBREVIATIONS)}|\p{{L}})\.$")
_PAUSES = ("，", ",", "、")


class Segmenter:
    """Cuts a text where a sentence has certainly ended, whatever follows.

    That is after a run of marks (with its closing quote) that has a full-width mark or is followed by white space,
    unless it is the full stop of an abbreviation or initial. 3.5, 10:30 and example.com stay whole. A decision needs
    the characters before the place and one after it, so fragments of any size give the same sentences. The sentences
    joined are the text.
    """

    def __init__(self) -> None:
        self._text = ""
        self._offset = 0  # of self._text in the whole text
        self._scanned = 0  # no sentence ends before this place in self._text

    def push(self, fragment: str) -> Iterator[Span]:
        """Yield the sentences that `fragment` completes. Take them all before the next fragment."""
        self._text += fragment
        while (end := self._next_boundary()) is not None:
            yield self._take(end)

    def flush(self) -> list[Span]:
        """Return the rest as a sentence, at the end of the text."""
        return [self._take(len(self._text))] if self._text else []

    def _next_boundary(self) -> int | None:
        text = self._text
        while self._scanned < len(text):
            if self._scanned >= MAX_SEGMENT:
                return self._forced_boundary()
            if text[self._scanned] not in _MARKS:
                self._scanned += 1
                continue
            end = self._scanned
            while end < len(text) and end < MAX_SEGMENT and text[end] in _MARKS:
                end += 1
            quoted = end + 1 if text[end : end + 1] and text[end] in QUOTES else end
            if quoted >= len(text):
                return None  # the next character decides
            wide = not _WIDE_MARKS.isdisjoint(text[self._scanned : end])
            if wide or (text[quoted].isspace() and not _ABBREVIATION.search(text[:end])):
                return quoted
            self._scanned = end
        return None

    def _forced_boundary(self) -> int:
        window = self._text[:MAX_SEGMENT]
        end = max(max(window.rfind(pause) for pause in _PAUSES) + 1, window.rfind(" "))
        return end if end > MAX_SEGMENT // 2 else MAX_SEGMENT

    def _take(self, end: int) -> Span:
        span = Span(self._text[:end], self._offset, self._offset + end)
        self._text = self._text[end:]
        self._offset += end
        self._scanned = 0
        return span
