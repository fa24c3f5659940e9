"""Divides a stream of text into sentences that can be normalised separately, with their offsets in the text."""

from __future__ import annotations

import re
from collections.abc import Iterator

import regex

from services.encode.text.borders import abbreviations, glued, lines
from services.encode.text.borders.units import end_of_unit
from services.encode.text.split import TERMINATORS, Span

MAX_SEGMENT = 400
"""A text without marks is cut at a comma or space within this many characters (about half a minute of speech). This
bounds the text that an unfinished sentence holds back."""

_MARKS = frozenset(TERMINATORS["zh"] + TERMINATORS["en"] + "…")
_WIDE_MARKS = frozenset(mark for mark in _MARKS if not mark.isascii()) - {"…"}
_PLACES = re.compile(rf"[{re.escape(''.join(sorted(_MARKS)) + lines.LINE_ENDS)}<\[]")
_CLOSERS = regex.compile(r"""["”’'»)\]}*_~`」』）】》]{0,4}""")
_WIDE_CLOSERS = regex.compile(r"""["”’)\]」』）】》]{0,4}""")
_ENDED = regex.compile(r"[.?!。？！…]")
"""The end of a sentence inside a line, which is therefore no heading; `Name: ` is none."""
_PAUSES = ("，", ",", "、")
_STOPPED = regex.compile(r"""[.?!。？！…]["”’'»)\]}*_~`」』）】》]{0,4}\s*$""")
"""The end of a text that a pause completes."""
_ENTITY = regex.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,20});$")
"""`&amp;`, whose mark ends no sentence."""
_COLONS = frozenset(":：")
_BEFORE_NUMBER = regex.compile(r"[*_`]{0,3}[ \t]{0,2}[*_`]{0,3}")
"""Blanks and marks of Markdown between a colon and a number."""
_LONGEST_ENTITY = 24
_LINE_HEAD = 400
"""Characters of a line that are kept to judge its end."""


class Segmenter:
    """Cuts a text where a sentence has certainly ended, whatever follows.

    That is after a run of marks (with its closing quotes or brackets) that has a full-width mark or is followed by
    white space, unless it is the full stop of an abbreviation or initial, or a colon before a number, whose reading
    depends on the words before it (`PIN: 1234`, `Rating: 8/10`); after a mark that touches the next sentence
    (`12345.Let me`); and at line ends that are no wrapped line's. 3.5, 10:30 and example.com stay whole; so do links,
    tags, brackets and table rows. A decision needs the characters before the place and a few after it, never where the
    fragments of the text end, so fragments of any size give the same sentences. The sentences joined are the text.
    """

    def __init__(self) -> None:
        self._text = ""
        self._offset = 0  # of self._text in the whole text
        self._scanned = 0  # no sentence ends before this place in self._text
        self._line = ""  # the beginning of the current line that earlier sentences contain
        self._line_from = 0  # where the current line begins in self._text, or 0
        self._wrapped = False  # a line end in self._text[: self._scanned] is inside a paragraph
        self._units: list[tuple[int, int]] = []  # links, tags and brackets in self._text

    def push(self, fragment: str) -> Iterator[Span]:
        """Yield the sentences that `fragment` completes. Take them all before the next fragment."""
        self._text += fragment
        while (end := self._next_boundary()) is not None:
            yield self._take(end)

    def pause(self) -> list[Span]:
        """Return the text that is held back if it ends as a sentence does, because its client has paused.

        A full stop after a digit or an abbreviation may continue, and so may an open bracket.
        """
        text = self._text.rstrip()
        match = _STOPPED.search(text)
        if match is None or not any(map(str.isalnum, text)) or self._open_unit():
            return []
        stop = match.start()
        if text[stop] == "." and text[stop - 1] != ".":
            word = abbreviations.word_before(text, stop)
            if text[stop - 1].isnumeric() or (word and word.casefold() != "no"):
                return []
        return [self._take(len(self._text))]

    def flush(self) -> list[Span]:
        """Return the rest as sentences, at the end of the text."""
        spans = []
        while (end := self._next_boundary(final=True)) is not None:
            spans.append(self._take(end))
        return [*spans, self._take(len(self._text))] if self._text else spans

    def _next_boundary(self, *, final: bool = False) -> int | None:
        """Return the end of the next sentence, None if it is not known yet. `final`: no text follows."""
        text = self._text
        while True:
            match = _PLACES.search(text, self._scanned, MAX_SEGMENT)
            if match is None:
                self._scanned = max(self._scanned, min(len(text), MAX_SEGMENT))
                return self._forced_boundary() if len(text) >= MAX_SEGMENT else None
            self._scanned = place = match.start()
            if text[place] in _MARKS:
                end, following = self._after_marks(place, final=final)
            elif text[place] in "[<":
                end, following = self._after_unit(place, final=final)
            else:
                end, following = self._after_line(place, final=final)
            if end is not None:
                return end
            if following is None:
                return None
            self._scanned = following

    def _after_marks(self, place: int, *, final: bool) -> tuple[int | None, int | None]:
        """Return the end of the sentence or None, and where to look further; None if later text decides."""
        text = self._text
        following = text[place + 1 : place + 2]
        if text[place] == ";" and _ENTITY.search(text, max(0, place - _LONGEST_ENTITY), place + 1) is not None:
            return None, place + 1
        if following == " " and text[place] in ".?!" and not self._in_table_row():  # by far the most frequent case
            return self._after_full_stop(place, final=final) if text[place] == "." else (place + 1, None)
        end = place
        while end < len(text) and end < MAX_SEGMENT and text[end] in _MARKS:
            end += 1
        if text[end - 1] in _COLONS:
            number = self._number_follows(end, final=final)
            if number is None:
                return None, None
            if number:
                return None, end
        wide = not _WIDE_MARKS.isdisjoint(text[place:end])
        closers = (_WIDE_CLOSERS if wide else _CLOSERS).match(text, end)
        closed = end if closers is None else closers.end()
        if closed >= len(text):
            return None, None  # the next character decides
        if wide and text[end] == '"' and not text[closed].isspace() and text.count('"', 0, end) % 2 == 0:
            closed = end  # the quotation mark opens the next sentence
        if self._in_table_row():
            return None, end
        if wide:
            if text[place:closed] == "、" and text[place - 1 : place].isdecimal() and text[closed].isdecimal():
                return None, end  # the numbers of a list are read together: 11:9、8:11、11:6
            return closed, None
        alone = end == place + 1
        if text[closed].isspace():
            if alone and text[place] == "." and closed == end:
                return self._after_full_stop(place, final=final)
            if alone and text[place:closed] == ".)":  # (nuts, fruit, etc.) are good
                after = text[closed + 1 : closed + 2]
                if not after and not final:
                    return None, None
                if after.islower():
                    return None, closed
            return closed, None
        ends = glued.ends_sentence(text, place, final=final) if alone and closed == end else False
        if ends is None:
            return None, None
        return (closed, None) if ends else (None, end)

    def _number_follows(self, place: int, *, final: bool) -> bool | None:
        """Return whether a number follows the colon before `place`; None if later text decides."""
        gap = _BEFORE_NUMBER.match(self._text, place)
        place = place if gap is None else gap.end()
        if place == len(self._text):
            return False if final else None
        return self._text[place].isdecimal()

    def _after_full_stop(self, place: int, *, final: bool) -> tuple[int | None, int | None]:
        near = place - self._line_from < lines.LONGEST_ITEM_NUMBER
        if near and lines.is_item_number(self._line_before(place + 1)):
            return None, place + 1
        ends = abbreviations.ends_sentence(self._text, place, final=final)
        if ends is None:
            return None, None
        return (place + 1, None) if ends else (None, place + 1)

    def _after_unit(self, place: int, *, final: bool) -> tuple[int | None, int | None]:
        end = end_of_unit(self._text, place, final=final)
        if end is None:
            return None, None
        if end == place:
            return None, place + 1
        self._units.append((place, end))
        self._line_from = max(self._line_from, *(self._text.rfind(mark, place, end) + 1 for mark in "\n\r"))
        return None, end

    def _after_line(self, place: int, *, final: bool) -> tuple[int | None, int | None]:
        text = self._text
        if not text[:place].strip():  # the line end before a sentence
            self._line = ""
            self._line_from = place + 1
            return None, place + 1
        broken = self._wrapped or (not self._line_from and _ENDED.search(self._line) is not None)
        ends = lines.line_break_ends(self._line_before(place), text, place, broken=broken, final=final)
        if ends is None:
            return None, None
        if ends:
            return place, None
        self._wrapped = True
        self._line_from = place + 1
        return None, place + 1

    def _open_unit(self) -> bool:
        rest = self._text[self._scanned :]
        return rest[:1] in {"[", "<"} and end_of_unit(self._text, self._scanned) is None

    def _in_table_row(self) -> bool:
        start = self._line_from
        return lines.is_table_row(self._text[start : start + 8] if start or not self._line else self._line)

    def _line_before(self, place: int) -> str:
        """Return the text of the line of `place` before it."""
        return self._text[self._line_from : place] if self._line_from else self._line + self._text[:place]

    def _forced_boundary(self) -> int:
        window = self._text[:MAX_SEGMENT]
        whole = [(start, end) for start, end in self._units if end - start <= MAX_SEGMENT // 2]
        for start, end in whole:
            window = window[:start] + "x" * (min(end, MAX_SEGMENT) - start) + window[end:]
        end = max(max(window.rfind(pause) for pause in _PAUSES) + 1, window.rfind(" "))
        return end if end > MAX_SEGMENT // 2 else MAX_SEGMENT

    def _take(self, end: int) -> Span:
        span = Span(self._text[:end], self._offset, self._offset + end)
        self._line = self._line_before(end)[:_LINE_HEAD]
        self._text = self._text[end:]
        self._offset += end
        self._scanned = 0
        self._line_from = 0
        self._wrapped = False
        self._units.clear()
        return span
