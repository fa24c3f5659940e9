"""Written numbers: digits in groups, decimals, signs, and what follows them."""

from __future__ import annotations

import re
from typing import NamedTuple

from services.encode.text.reading.words import LONGEST_NUMBER, cardinal, spelled

BLANK = "[ \u00a0\u2009\u202f'’]"
_NAMES = "Chapter|Section|Page|Part|Step|Day|Week|Level|Lesson|Episode|Season|Volume|Version|Windows|Android"
"""Names of things with numbers, which may begin a sentence."""
_PEOPLE = "people|inhabitants|residents|soldiers|visitors|euros|dollars|pounds|tons|tonnes"
_CAPITALISED = r"[\p{L}\p{N}][,;]?[ ][\p{L}\p{N}'’-]*\p{Lu}[\p{L}\p{N}'’-]*"
"""A word with a capital that begins no sentence."""
_TWO_NUMBERS = rf"""(?<=[ ])[1-9]\d\d(?![ ]?\d)(?:(?=-?\p{{L}}|-\d{{1,3}}(?![ \d])|[ ][GT]B\b)
    |(?<=(?:{_CAPITALISED}|\b(?:{_NAMES}))[ ]\d{{1,3}}[ ]\d{{3}})(?![ ](?:{_PEOPLE})\b))"""
"""Digits after a blank that are a number of their own: iPhone 15 128GB, a Pixel 8 256 GB, Chapter 5 120 pages."""
GROUPED = rf"""(?:
    [1-9]\d{{0,2}}(?:,\d{{3}})+(?:\.\d+)?          # 1,234.5
  | [1-9]\d{{0,2}}(?:\.\d{{3}})+,\d+               # 1.234,5
  | [1-9]\d{{0,2}}(?:\.\d{{3}}){{2,}}              # 1.234.567
  | [1-9]\d{{0,2}}(?P<gap>{BLANK})(?!{_TWO_NUMBERS})\d{{3}}(?:(?P=gap)\d{{3}})*(?:[.,]\d+)?   # 1 234 567
  | [1-9]\d?(?:,\d\d)+,\d{{3}}(?:\.\d+)?           # 12,34,567
)"""
NUMBER = rf"(?:{GROUPED}|\d+(?:\.\d+)?|\.\d+)"
"""A number. `gap` must not be used as a name of another group in the same pattern; use `numbers` for more than one."""
BEGIN = r"(?<![\d]|\d[.,])"
END = r"(?!\d|[.,]\d)"
SIGN = r"(?:(?<![\w.,)\]%°$€£¥/-])[-−–+±~≈])"
DASH = r"\s?[-–—−]\s?"
SIGNS = {"-": "minus ", "−": "minus ", "–": "minus ", "+": "plus ", "±": "plus or minus ", "~": "about ", "≈": "about "}
_BLANKS = str.maketrans(dict.fromkeys(" \u00a0\u2009\u202f'’"))
_NOUN = re.compile(r"[ -]([a-z]+)")
_NOT_NOUNS = frozenset(
    [
        "is",
        "was",
        "has",
        "its",
        "as",
        "this",
        "us",
        "vs",
        "plus",
        "versus",
        "does",
        "perhaps",
        "always",
        "unless",
        "across",
        "towards",
        "less",
    ]
)
_NOUNS = frozenset(
    [
        "people",
        "men",
        "women",
        "children",
        "percent",
        "feet",
        "dollars",
        "dollar",
        "euro",
        "meters",
        "year",
        "month",
        "day",
        "hour",
    ]
)


def number(name: str, *, comma: bool = False) -> str:
    """Return `NUMBER` as a named group; with `comma`, also a decimal comma (29,99), as before units and currencies."""
    written = NUMBER.replace("gap", f"gap_{name}")
    decimal = r"\d+,\d{1,2}(?!\d) | \d+,\d{4,} |" if comma else ""
    return rf"(?P<{name}>{decimal}{written})"


class Amount(NamedTuple):
    """A number as its digits."""

    whole: str
    fraction: str = ""

    @property
    def is_one(self) -> bool:
        return self.whole == "1" and not self.fraction

    def words(self) -> str:
        whole = (
            (spelled(self.whole) if len(self.whole) > LONGEST_NUMBER else cardinal(self.whole)) if self.whole else ""
        )
        return f"{whole} point {spelled(self.fraction)}".lstrip() if self.fraction else whole


def amount(written: str) -> Amount:
    """Return the digits of what `NUMBER` matched, or of a decimal comma."""
    if written.isdigit():
        return Amount(written)
    digits = written.translate(_BLANKS)
    commas, dots = digits.count(","), digits.count(".")
    if commas and dots:
        mark = "," if digits.rindex(",") > digits.rindex(".") else "."
    elif commas:
        mark = "" if _is_grouped(digits, ",") else ","
    else:
        mark = "" if dots > 1 else "."
    whole, _, fraction = digits.partition(mark) if mark else (digits, "", "")
    return Amount(whole.replace(",", "").replace(".", ""), fraction)


def _is_grouped(digits: str, mark: str) -> bool:
    return len(digits.rsplit(mark, 1)[1]) == 3


def counts(text: str, end: int) -> bool:
    """Return whether what follows `end` seems to be a noun that a number counts: 1500 people, 25000 tickets."""
    noun = _NOUN.match(text, end)
    if noun is None:
        return False
    word = noun.group(1)
    return word in _NOUNS or (
        len(word) > 3 and word.endswith("s") and not word.endswith("ss") and word not in _NOT_NOUNS
    )


def sign_words(sign: str | None) -> str:
    return SIGNS[sign.strip()] if sign else ""
