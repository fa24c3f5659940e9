"""Reads English sentences whose numbers are all of frequent kinds in one pass.

The rules of `reading/english` define how numbers are read. They need 20 to 40 passes over a sentence. This reader finds
each number with one pattern, and calls the functions of the rules. It returns None as soon as a sentence has anything
else: another kind of number, two numbers in a row, or a word near a number that changes its reading.
`tests/unit/encode/test_quick.py` compares both.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from services.encode.text.borders.words import words
from services.encode.text.reading.english.abbreviations import WEEKDAY_NAMES
from services.encode.text.reading.english.amounts import CERTAIN_UNITS, UNITS, amount, counts
from services.encode.text.reading.english.calendar import MONTHS, SHORT_MONTHS
from services.encode.text.reading.english.clock import clock
from services.encode.text.reading.english.identifiers import (
    AIRLINES,
    CODE_WORDS,
    COUNTED_WORDS,
    LABEL_WORDS,
    PRODUCTS,
    STANDARDS,
    STATUS_WORDS,
    STATUSES,
)
from services.encode.text.reading.english.money import CURRENCIES, sum_words
from services.encode.text.reading.english.quantities import is_year, plain
from services.encode.text.reading.english.units import quotation_is_open
from services.encode.text.reading.words import grouped, label, ordinal, spelled, year

_ALLOWED = re.compile(r"[A-Za-z0-9 .,;:!?'\"()’‘“”…$%#/-]*")
_NUMBER = r"(?:[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?|\d+\.\d+|\d+)"
_SCAN = re.compile(
    rf"""(?<!\S)(?=[$\#0-9])(?:
    (?P<day>3[01]|[12]\d|[1-9])(?:st|nd|rd|th)?,?[ ](?P<year>[12]\d{{3}})
    | (?P<hour>\d{{1,2}})(?::(?P<minute>[0-5]\d)(?:[ ]?(?P<half>[AaPp][Mm]))?|[ ]?(?P<alone>[AaPp][Mm]))
    | \$(?P<money>(?:[1-9]\d{{0,2}}(?:,\d{{3}})+|\d+)(?:\.\d\d)?)
    | (?P<percent>{_NUMBER})%
    | (?P<telephone>\d{{3}}-\d{{3}}-\d{{4}})
    | \#(?P<named>\d+)
    | (?P<ordinal>[1-9]\d{{0,2}})(?:st|nd|rd|th)
    | (?P<measure>{_NUMBER})[ ]?(?P<unit>{"|".join(CERTAIN_UNITS)})(?P<per>/h)?
    | (?P<whole>\d+)
    | (?P<quantity>{_NUMBER})
    )(?=[.,;:!?]{{0,3}}[”")]?(?:\s|$))
    | (?P<other>\d)""",
    re.VERBOSE,
)
_BEGIN = re.compile(r"[$#\d]")
"""The first character of what `_SCAN` matches. The search for one character is many times faster."""
_NEXT = re.compile(r"([.,;:!?]*[”\")]?)\s*(\S*)")
_WORDS = re.compile(r"[A-Za-z'’]+")
_MARKS = '.,;:!?)"”'
_OPENING = ":\"'(“‘"
_JOINING = ".-–—/"
_AFTER_MONTH = frozenset(("year", "whole"))
_HALVES = frozenset(("am", "pm", "a.m.", "p.m.", "a.m", "p.m"))
_LETTER = re.compile(r"[A-Za-z]")
_MONTHS = frozenset(MONTHS)
_ALL_MONTHS = frozenset({name.lower() for name in MONTHS} | {name.lower() for name in SHORT_MONTHS} | {"sept"})
_LINKS = words("number numbers code codes no nos num id ids is was are were of digit digits in with four ending")
_ENDINGS = frozenset(("end", "ends", "ending", "last"))
_CALLS = words("call dial text ring phone calling dialing dialling")
_ARTICLES = frozenset(("a", "an", "A", "An"))
_AFTER_CODE = frozenset(("and", "or", "to", "through"))
_NEVER = frozenset(
    {
        *CURRENCIES,
        *STANDARDS,
        *AIRLINES,
        "x",
        "X",
        "BC",
        "BCE",
        "CE",
        "pp",
        "AD",
        "bn",
        "tn",
        "UTC",
        "GMT",
        "ext",
        "extension",
        "sq",
        "cu",
        "fl",
        "approx",
        "Approx",
        "Apt",
        "Hwy",
        "hwy",
        "Zulu",
        "hrs",
        "Rte",
        "Ste",
        "Vol",
        "v",
        "ea",
        "gal",
        "hr",
        "lb",
        "mo",
        "oz",
        "wk",
        "yr",
        "Rs",
        *WEEKDAY_NAMES,
    }
)  # codespell:ignore
"""Words that give a number of the sentence another reading."""
_SCALES = re.compile(
    r"(?:hundred|thousand|million|billion|trillion|lakh|crore)s?\b|[MKB]\b|(?:dollar|euro|pound|buck)s?\b"
)
_CONTEXT = CODE_WORDS | LABEL_WORDS


class _OtherError(Exception):
    """The sentence needs the rules."""


class _Sentence:
    """A sentence and the readings of its numbers. All methods raise _OtherError where the rules are needed."""

    def __init__(self, text: str, words: list[str]) -> None:
        self._text = text
        self._words = words
        self._begun = False
        self._before: list[str] = []

    def read(self, match: re.Match[str], between: str) -> str:
        """Return the words of a number. `between`: the text since the last number."""
        kind = match.lastgroup
        if kind == "other" or kind is None:
            raise _OtherError
        self._before = before = between.split()
        if before:
            last = before[-1]
            if last.isalpha():
                month = last.lower() in _ALL_MONTHS
            elif last[-1] in _JOINING or not _LETTER.search(last):
                raise _OtherError
            else:
                month = last.rstrip(_MARKS).lower() in _ALL_MONTHS
            if month and (last not in _MONTHS or kind not in _AFTER_MONTH):
                raise _OtherError
            last = last.rstrip(_OPENING)
        elif self._begun:
            raise _OtherError
        else:
            last = ""
        self._begun = True
        text, end = self._text, match.end()
        follows = _NEXT.match(text, end)
        if follows is None:
            return _READERS[kind](self, match, last, "")
        marks, after = follows.groups()
        if after and not (after[0].isalpha() or after[0] in "\"“‘'(" or (after[0].isdigit() and marks)):
            raise _OtherError
        if after == "in.":
            raise _OtherError
        if not marks:
            return _READERS[kind](self, match, last, after.rstrip(_MARKS))
        if marks[-1] in '"”' and not quotation_is_open(text, match.start(), marks[-1]):  # inches
            raise _OtherError
        return _READERS[kind](self, match, last, "")

    def date(self, match: re.Match[str], last: str, after: str) -> str:
        if not last or last not in _MONTHS or counts(self._text, match.end()) or self._has_of_before(match):
            raise _OtherError
        return f"{ordinal(match['day'])}, {year(match['year'])}"

    def time(self, match: re.Match[str], last: str, after: str) -> str:
        hour, minute, half = match["hour"], match["minute"], match["half"] or match["alone"]
        if (minute is None and (int(hour) > 24 or last.lower() in _CONTEXT)) or after.startswith(("o", "O")):
            raise _OtherError
        return clock(hour, minute, None, half[0] if half else None)

    def money(self, match: re.Match[str], last: str, after: str) -> str:
        if _SCALES.match(after) or last in _ARTICLES:  # a $5 bill
            raise _OtherError
        return sum_words(amount(match["money"]), None, "$")

    def percent(self, match: re.Match[str], last: str, after: str) -> str:
        return f"{amount(match['percent']).words()} percent"

    def telephone(self, match: re.Match[str], last: str, after: str) -> str:
        return grouped(match["telephone"].split("-"))

    def named(self, match: re.Match[str], last: str, after: str) -> str:
        if self._has_any(CODE_WORDS) or self._continues(match, after) or counts(self._text, match.end()):
            raise _OtherError
        if after in UNITS or self._month_follows(match, after):
            raise _OtherError
        return f"number {label(match['named'])}"

    def ordinal(self, match: re.Match[str], last: str, after: str) -> str:
        if self._month_follows(match, after):
            raise _OtherError
        return ordinal(match["ordinal"])

    def measure(self, match: re.Match[str], last: str, after: str) -> str:
        if after in UNITS:
            raise _OtherError
        value = amount(match["measure"])
        name = UNITS[match["unit"]][0 if value.is_one else 1]
        return f"{value.words()} {name}{' per hour' if match['per'] else ''}"

    def quantity(self, match: re.Match[str], last: str, after: str) -> str:
        if after in UNITS or after.lower() in _HALVES:
            raise _OtherError
        return amount(match["quantity"]).words()

    def whole(self, match: re.Match[str], last: str, after: str) -> str:
        digits, text, end = match["whole"], self._text, match.end()
        word = last.lower()
        if len(digits) == 4 and after == "hours":
            raise _OtherError
        if word in _ALL_MONTHS:
            return self._after_month(match)
        if last in PRODUCTS or (after in STATUS_WORDS and digits in STATUSES):
            raise _OtherError
        if word in _CALLS or after in UNITS or after.lower() in _HALVES or self._month_follows(match, after):
            raise _OtherError
        counted = counts(text, end)
        if word in _CONTEXT or word in _LINKS or (len(last) == 2 and last.isupper()):
            named = self._named(match, word, after, counted=counted)
            if named is not None:
                return named
        if is_year(digits, text, match.start(), counted=counted):
            return year(digits)
        return plain(digits, counted=counted)

    def _after_month(self, match: re.Match[str]) -> str:
        digits = match["whole"]
        if counts(self._text, match.end()) or self._has_of_before(match):
            raise _OtherError
        if len(digits) == 4 and digits[0] in "12":
            return year(digits)
        if len(digits) > 2 or digits[0] == "0" or not 1 <= int(digits) <= 31:
            raise _OtherError
        return ordinal(digits)

    def _named(self, match: re.Match[str], word: str, after: str, *, counted: bool) -> str | None:
        """Return the words of a code or of the number of a thing; None if it is neither."""
        if word in CODE_WORDS:
            if self._continues(match, after):
                raise _OtherError
            return spelled(match["whole"])
        if word in LABEL_WORDS:
            if counted or self._continues(match, after) or self._has_any(CODE_WORDS) or word in COUNTED_WORDS:
                raise _OtherError
            return label(match["whole"])
        for earlier in reversed(self._before[:-1]):
            plain_word = earlier.rstrip(".:").lower()
            if plain_word in _CONTEXT or plain_word in _ENDINGS:
                raise _OtherError
            if plain_word not in _LINKS:
                break
        return None

    def _continues(self, match: re.Match[str], after: str) -> bool:
        """Return whether more numbers may belong to the same word: rooms 1, 2 and 3."""
        return after.lower() in _AFTER_CODE or self._text[match.end() : match.end() + 1] == ","

    def _month_follows(self, match: re.Match[str], after: str) -> bool:
        if after == "of":
            return self._has_any(_ALL_MONTHS)
        return after.lower() in _ALL_MONTHS

    def _has_of_before(self, match: re.Match[str]) -> bool:
        return " of " in self._text[max(0, match.start() - 20) : match.start()]

    def _has_any(self, words: frozenset[str]) -> bool:
        return not words.isdisjoint(map(str.lower, self._words))


_READERS: dict[str, Callable[[_Sentence, re.Match[str], str, str], str]] = {
    "year": _Sentence.date,
    "minute": _Sentence.time,
    "half": _Sentence.time,
    "alone": _Sentence.time,
    "money": _Sentence.money,
    "percent": _Sentence.percent,
    "telephone": _Sentence.telephone,
    "named": _Sentence.named,
    "ordinal": _Sentence.ordinal,
    "unit": _Sentence.measure,
    "per": _Sentence.measure,
    "whole": _Sentence.whole,
    "quantity": _Sentence.quantity,
}


def read_quickly(text: str) -> str | None:
    """Return the sentence with its numbers in words, or None if it needs the rules."""
    if _ALLOWED.fullmatch(text) is None:
        return None
    present = _WORDS.findall(text)
    if not _NEVER.isdisjoint(present):
        return None
    sentence = _Sentence(text, present)
    parts: list[str] = []
    end = 0
    try:
        found = _BEGIN.search(text)
        while found is not None:
            start = found.start()
            match = _SCAN.match(text, start)
            if match is None:  # a sign without a number
                found = _BEGIN.search(text, start + 1)
                continue
            between = text[end:start]
            parts += (between, sentence.read(match, between))
            end = match.end()
            found = _BEGIN.search(text, end)
    except _OtherError:
        return None
    parts.append(text[end:])
    return "".join(parts)
