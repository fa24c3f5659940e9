"""Whole numbers as words of a language, by num2words, which has faults in some languages; Roman numerals."""

from __future__ import annotations

from functools import lru_cache

import regex
from num2words import CONVERTER_CLASSES, num2words

_ROMAN = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}
_VALID_ROMAN = regex.compile(r"(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})")


def roman_value(numeral: str) -> int | None:
    """Return the value of a Roman numeral below 100; None if it is written wrongly."""
    if not _VALID_ROMAN.fullmatch(numeral):
        return None
    values = [_ROMAN[char] for char in numeral]
    return sum(-value if value < after else value for value, after in zip(values, [*values[1:], 0], strict=True))


@lru_cache(maxsize=256)
def has_language(language: str) -> bool:
    """Whether the library reads numbers of this language. In Amharic it loops for ever beyond a million."""
    if language not in CONVERTER_CLASSES:
        return False
    try:
        return all(num2words(number, lang=language) for number in (0, 7, 1234))
    except Exception:  # noqa: BLE001 - some converters of the library fail on their own tables
        return False


def number_words(value: int, language: str, kind: str = "cardinal") -> str | None:
    """Return the words of a number (`kind`: "cardinal" or "ordinal"); None if there are none for it."""
    if not has_language(language):
        return None
    try:
        return str(num2words(value, lang=language, to=kind)) or None
    except Exception:  # noqa: BLE001 - see has_language
        return None
