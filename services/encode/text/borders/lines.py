"""Decides whether a line end ends a sentence: a wrapped line does not, a heading, a list item or a table row does."""

from __future__ import annotations

import regex

from services.encode.text.borders.words import words

LINE_ENDS = "\n\r\u2028\u2029\x0b\x0c\x85"

_BULLETS = "-*+•◦‣▪▫●○·–—→✓✔✗☐☑"
_STARTS_ITEM = regex.compile(
    rf"[{regex.escape(_BULLETS)}][ \t]|\d{{1,3}}[.)、．][ \t\p{{L}}]|\((?:\d{{1,3}}|[a-zA-Z]|[ivx]{{2,4}})\)"
    r"|[a-zA-Z]\)[ \t]|(?:[a-z]|[ivx]{2,4})\.[ \t]+\p{Lu}|[①-⑳]|[（(](?:\d{1,3}|[一二三四五六七八九十]{1,3})[）)]"
)
_STARTS_BLOCK = regex.compile(r"#{1,6}[ \t]|```|~~~|\||[-=*_]{3}|>[ \t]")
_ITEM_NUMBER = regex.compile(r"[ \t]*(?:\d{1,3}|[a-zA-Z]|[ivxIVX]{1,4})\.")
LONGEST_ITEM_NUMBER = 20
_OPENERS = regex.compile(r"""[*_"“‘'«(\[`~「『《]{0,4}""")
_ITEM_LINE = regex.compile(rf"[ \t]*(?:{_STARTS_ITEM.pattern})")
_BLOCK_LINE = regex.compile(rf"[ \t]*(?:{_STARTS_BLOCK.pattern})")
_OPEN_END = regex.compile(r"""[\p{P}--["'”’»)\]}*_`~」』》%‰]]$""", regex.V1)
"""A mark at the end of a line: it ends a sentence, or the sentence continues."""
_BEGINS_LINE = regex.compile(r"[\p{L}\p{N}\p{So}--\p{Ll}]", regex.V1)
"""A capital, a digit, a letter of a script without capitals, a picture."""
_WIDE = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]")
LONGEST_HEADING = 60
LONGEST_WIDE_HEADING = 24

_CONTINUING = words("""
    a an the of and or nor but to in at with for from by on as is are was were be been has have had my your his her
    their our its that which who than if into about mr mrs ms dr prof between under over near through per via not
    de la le les des du und der die das von zu mit el los las y en
    """)
"""A line that ends with one of these words goes on in the next line."""


def line_break_ends(line: str, text: str, end: int, *, broken: bool, final: bool = False) -> bool | None:
    """Return whether the line end at `end` in `text` ends a sentence.

    `line` is the text of the line before it; `broken` says that it is part of a paragraph: a sentence ended inside the
    line, or the line before it was wrapped. Returns None if later text decides; `final`: there is none.
    """
    start = end
    blank_lines = 0
    while start < len(text) and text[start].isspace():
        blank_lines += text[start] in LINE_ENDS and not (text[start] == "\n" and text[start - 1 : start] == "\r")
        if blank_lines > 1:
            return True
        start += 1
    if start == len(text):
        return False if final else None
    if _BLOCK_LINE.match(line) is not None:
        return True
    return _next_line_begins(line, text, start, broken=broken, final=final)


def _next_line_begins(line: str, text: str, start: int, *, broken: bool, final: bool) -> bool | None:
    for pattern in (_STARTS_BLOCK, _STARTS_ITEM):
        match = pattern.match(text, start, partial=not final)
        if match is not None:
            return None if match.partial else True
    first = _OPENERS.match(text, start)
    place = start if first is None else first.end()
    if place == len(text):
        return False if final else None
    return _BEGINS_LINE.match(text, place) is not None and _could_be_whole(line, broken=broken)


def _could_be_whole(line: str, *, broken: bool) -> bool:
    """Return whether a line could be a heading or an item."""
    text = line.strip()
    if not text or _OPEN_END.search(text):
        return False
    if _ITEM_LINE.match(line) is not None:
        return True
    limit = LONGEST_WIDE_HEADING if _WIDE.search(text) else LONGEST_HEADING
    return not broken and len(text) <= limit and text.rsplit(maxsplit=1)[-1].casefold() not in _CONTINUING


def is_item_number(line: str) -> bool:
    """Return whether `line`, up to a full stop, is only the number of an item: `1.`, `a.`."""
    return len(line) <= LONGEST_ITEM_NUMBER and _ITEM_NUMBER.fullmatch(line) is not None


def is_table_row(line: str) -> bool:
    return line.lstrip().startswith("|")
