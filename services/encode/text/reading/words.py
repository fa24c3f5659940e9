"""Numbers as English words, by num2words."""

from __future__ import annotations

from functools import cache, lru_cache

from num2words import num2words

LONGEST_NUMBER = 36
"""Digits of the longest number that is read as one; longer ones are read digit by digit."""
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
YEARS = range(1010, 2100)
"""Numbers of four digits that may be years."""


@lru_cache(maxsize=8192)
def cardinal(digits: str) -> str:
    """Read ASCII digits as a quantity. A leading zero or too many digits make it digit by digit."""
    if (len(digits) > 1 and digits[0] == "0") or len(digits) > LONGEST_NUMBER:
        return spelled(digits)
    groups = [digits[max(0, end - 3) : end] for end in range(len(digits), 0, -3)]  # the last group first
    parts = [f"{_group(group)}{_scale(place)}" for place, group in enumerate(groups) if int(group)]
    if not parts:
        return _group("0")
    last = " and " if 0 < int(groups[0]) < 100 else ", "
    return ", ".join(reversed(parts[1:])) + (last if len(parts) > 1 else "") + parts[0]


@lru_cache(maxsize=1000)
def _group(digits: str) -> str:
    """Read a group of up to three digits."""
    hundreds, rest = divmod(int(digits), 100)
    words = f"{_below_100(hundreds)} hundred" if hundreds else ""
    return f"{words}{' and ' if words else ''}{_below_100(rest)}" if rest or not hundreds else words


@cache
def _below_100(value: int) -> str:
    """The library needs 0.1 ms, so longer numbers are made of these."""
    return str(num2words(value))


@cache
def _scale(place: int) -> str:
    """Return ` thousand` for 1, ` million` for 2 and so on."""
    return str(num2words(1000**place)).removeprefix("one") if place else ""


@lru_cache(maxsize=2048)
def ordinal(digits: str) -> str:
    """Read ASCII digits as an ordinal: 21 -> twenty-first."""
    return str(num2words(int(digits), to="ordinal"))


@lru_cache(maxsize=2048)
def year(digits: str) -> str:
    """Read a year: 1999 -> nineteen ninety-nine, 1905 -> nineteen oh five. Other numbers are quantities."""
    if len(digits) != 4 or int(digits) not in YEARS:
        return cardinal(digits)
    return str(num2words(int(digits), to="year")).replace("oh-", "oh ")


def is_recent(digits: str) -> bool:
    """Return whether four digits are more likely a year than a quantity: 1900 to 2099, if they are not round."""
    return 1900 < int(digits) < 2100 and not digits.endswith("00")


def spelled(digits: str) -> str:
    """Read digit by digit."""
    return " ".join(map(DIGITS.__getitem__, map(int, digits)))


def grouped(groups: list[str]) -> str:
    """Read groups digit by digit, with a pause between groups."""
    return ", ".join(spelled(group) for group in groups)


def two_digits(digits: str) -> str:
    """Read minutes: 05 -> oh five, 30 -> thirty."""
    return f"oh {DIGITS[int(digits)]}" if digits[0] == "0" else cardinal(digits)


def code(digits: str) -> str:
    """Read digits of a name or code, such as those of A4, E100 and 705A."""
    if len(digits) > 1 and digits[0] == "0":
        return spelled(digits)
    if len(digits) <= 2 or (len(digits) == 3 and digits.endswith("00")):
        return cardinal(digits)
    if len(digits) == 4 and 1900 <= int(digits) < 2100:
        return year(digits)
    return spelled(digits)


def in_pairs(digits: str) -> str:
    """Read three or four digits of a name: 360 -> three sixty, 4090 -> forty ninety, 101 -> one oh one."""
    if digits.endswith("000"):
        return cardinal(digits)
    if digits.endswith("00"):
        return f"{cardinal(digits[:-2])} hundred"
    return f"{cardinal(digits[:-2])} {two_digits(digits[-2:])}"


def plural(words: str) -> str:
    """Return a number in the plural: eight -> eights, six -> sixes, thirty -> thirties."""
    return f"{words[:-1]}ies" if words.endswith("y") else f"{words}es" if words.endswith("x") else f"{words}s"


def label(digits: str) -> str:
    """Read the number of a room, a flight, an order: digit by digit from three digits on."""
    return spelled(digits) if len(digits) > 2 or digits[0] == "0" else cardinal(digits)
