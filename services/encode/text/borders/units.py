"""Parts of a text that are never divided: links, tags, brackets, addresses."""

from __future__ import annotations

import regex

LONGEST_UNIT = 300
"""Most characters between two brackets of one unit. A longer bracket is ordinary text."""

_NAME = r"[A-Za-z][\w:.-]{0,40}"
_ATTRIBUTE = r"""\s+[\w:.-]{1,40}\s*=\s*(?:"[^"<]{0,300}"|'[^'<]{0,300}'|[^\s"'<>]{1,100})"""
TAG = rf"</?{_NAME}(?:{_ATTRIBUTE}){{0,20}}\s*/?>"
"""A tag of SSML or HTML. `a < b`, `<b and c>` and `<name@example.com>` are none."""
COMMENT = rf"<!--(?:[^-]|-(?!->)){{0,{LONGEST_UNIT}}}-->"
CONTROL = r"<\|[^|<>\r\n]{1,64}\|>"
"""A control token of a model."""
_AUTOLINK = rf"<(?:https?://|mailto:)[^\s<>]{{1,{LONGEST_UNIT}}}>"

_ANGLED = regex.compile(rf"{TAG}|{COMMENT}|{CONTROL}|{_AUTOLINK}")
_BRACKET = regex.compile(rf"\[[^\[\]\r\n]{{0,{LONGEST_UNIT}}}\]")
_TARGET = regex.compile(rf"\((?:[^()\r\n]|\([^()\r\n]{{0,100}}\)){{0,{LONGEST_UNIT}}}\)")


def end_of_unit(text: str, start: int, *, final: bool = False) -> int | None:
    """Return the end of the unit that the bracket at `start` opens; `start` if it opens none.

    Returns None if later text decides; `final`: there is none.
    """
    square = text[start] == "["
    end = _end_of_match(_BRACKET if square else _ANGLED, text, start, final=final)
    if end is None or end == start or not square:
        return end
    if end == len(text):
        return end if final else None
    if text[end] != "(":
        return end
    return _end_of_match(_TARGET, text, end, final=final)


def _end_of_match(pattern: regex.Pattern[str], text: str, start: int, *, final: bool) -> int | None:
    match = pattern.match(text, start, partial=not final)
    if match is None:
        return start
    return None if match.partial else match.end()
