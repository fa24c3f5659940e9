"""Whole numbers as words of a language, by num2words, which has faults in some languages."""

from __future__ import annotations

from functools import lru_cache

from num2words import CONVERTER_CLASSES, num2words


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
