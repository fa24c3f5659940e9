"""Reads English number words back, independently of the library that writes them.

cardinal   = group [scale] {[","] [and] group [scale]}     one thousand, two hundred and five
group      = unit "hundred" ["and" small] | small
small      = unit | teen | tens ["-" unit]
digits     = digit {[","] digit}                            zero four one five
year       = small (small | "hundred" | "oh" unit)          nineteen oh five, twenty twenty-four
"""

from __future__ import annotations

import re
from collections import Counter
from decimal import Decimal

_UNITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = ("thousand", "million", "billion", "trillion", "quadrillion", "quintillion", "sextillion", "septillion",
           "octillion", "nonillion", "decillion")  # fmt: skip
_SMALL = {word: value for value, word in enumerate((*_UNITS, *_TEENS))}
_SMALL.update({word: 20 + 10 * i for i, word in enumerate(_TENS)})
_ORDINALS = {"first": "one", "second": "two", "third": "three", "fifth": "five", "eighth": "eight", "ninth": "nine",
             "twelfth": "twelve"}  # fmt: skip
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December")  # fmt: skip


class NotANumber(ValueError):
    """The words are not one number."""


def number(words: str) -> Decimal:
    """Return the value of one number: a cardinal, digit by digit, with a fraction or a sign."""
    if words.startswith("minus "):
        return -number(words.removeprefix("minus "))
    whole, point, fraction = words.partition(" point ")
    if words.startswith("point "):
        whole, point, fraction = "zero", "point", words.removeprefix("point ")
    value = Decimal(digits(whole) if _is_digits(whole) else cardinal(whole))
    return value + Decimal(f"0.{digits(fraction)}") if point else value


def digits(words: str) -> str:
    """Return digits that were read one by one, with their leading zeros."""
    try:
        return "".join(str(_UNITS.index(word)) for word in words.replace(",", "").split())
    except ValueError as error:
        raise NotANumber(words) from error


def _is_digits(words: str) -> bool:
    return " " in words and set(words.replace(",", "").split()) <= set(_UNITS)


def cardinal(words: str) -> int:
    total, last = 0, len(_SCALES) + 1
    rest = words.replace(",", "").replace("-", " ").split()
    while rest:
        if total and rest[0] == "and":
            rest = rest[1:]
        value, rest = _group(rest)
        scale = 0
        if rest and rest[0] in _SCALES:
            scale = _SCALES.index(rest[0]) + 1
            rest = rest[1:]
        if scale >= last:
            raise NotANumber(words)
        total, last = total + value * 1000**scale, scale
    return total


def _group(words: list[str]) -> tuple[int, list[str]]:
    value, rest = _below_hundred(words)
    if rest and rest[0] == "hundred":
        if not 1 <= value <= 9:
            raise NotANumber(" ".join(words))
        value, rest = value * 100, rest[1:]
        if len(rest) > 1 and rest[0] == "and" and rest[1] in _SMALL:
            small, after = _below_hundred(rest[1:])
            if not (after and after[0] in _SCALES) or small:
                value, rest = value + small, after
    return value, rest


def _below_hundred(words: list[str]) -> tuple[int, list[str]]:
    if not words or words[0] not in _SMALL:
        raise NotANumber(" ".join(words))
    value, rest = _SMALL[words[0]], words[1:]
    if value >= 20 and rest and 1 <= _SMALL.get(rest[0], 0) <= 9:
        return value + _SMALL[rest[0]], rest[1:]
    return value, rest


def ordinal(words: str) -> int:
    head, mark, last = words.rpartition(" ") if "-" not in words.split(" ")[-1] else words.rpartition("-")
    last = _ORDINALS.get(last) or (
        last.removesuffix("ieth") + "y" if last.endswith("ieth") else last.removesuffix("th")
    )
    return cardinal(f"{head}{mark}{last}")


def year(words: str) -> int:
    try:
        return cardinal(words)
    except NotANumber:
        rest = words.replace("-", " ").split()
        century, rest = _below_hundred(rest)
        if rest == ["hundred"]:
            return century * 100
        if rest[0] == "oh":
            rest = rest[1:]
        value, rest = _below_hundred(rest)
        if rest:
            raise NotANumber(words) from None
        return century * 100 + value


_NONZERO = {word: str(value).replace("0", "") for word, value in _SMALL.items()}
_NONZERO |= {month: str(i + 1).replace("0", "") for i, month in enumerate(MONTHS)}
_NONZERO |= {"half": "2", "halves": "2", "quarter": "4", "quarters": "4", "squared": "2", "cubed": "3", "cubic": "3",
             "square": "2"}  # fmt: skip


def nonzero_digits(text: str) -> Counter[str]:
    """Count the digits 1 to 9 of a text, those in words and those of months' names included, but not `second`."""
    found: Counter[str] = Counter()
    for word in re.findall(r"[A-Za-z]+|[1-9]", text):
        plain = word if word in _NONZERO else _cardinal_of(word)
        if plain == "two" and word.startswith("second"):
            continue
        found.update(_NONZERO.get(plain, plain if plain.isdigit() else ""))
    return found


def _cardinal_of(word: str) -> str:
    """Return the word of a digit in an ordinal, a part or a decade: thirds -> three, nineties -> ninety."""
    single = word.removesuffix("s")
    if word.endswith("ies"):
        return word.removesuffix("ies") + "y"
    if single in _ORDINALS:
        return _ORDINALS[single]
    if single.endswith("ieth"):
        return single.removesuffix("ieth") + "y"
    return single.removesuffix("th")


def chinese_number(words: str) -> Decimal:
    """Return the value of a Chinese number below 10^8: 一万零二十点五."""
    whole, point, fraction = words.partition("点")
    digits_ = "零一二三四五六七八九"
    total = group = digit = 0
    for char in whole:
        if char in digits_ or char == "两":
            digit = 2 if char == "两" else digits_.index(char)
        elif char == "万":
            total, group, digit = (group + digit) * 10**4, 0, 0
        else:
            group, digit = group + (digit or 1) * 10 ** (1 + "十百千".index(char)), 0
    value = Decimal(total + group + digit)
    return value + Decimal("0." + "".join(str(digits_.index(char)) for char in fraction)) if point else value
