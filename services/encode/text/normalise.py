"""Converts written text to words as they are read (spec sections 2.1 and 2.2).

Applies the rules of the model family, and for English some rules of our own where the family's rule ("spell every run
of digits") is wrong: 3.5, 1,234, 10:30, 3rd, Mr., U.S., 50%. Dates and telephone numbers are known to be read wrong,
and years are read as numbers.

The optional package `wetext` reads Chinese numbers, dates and sums of money; without it digits stay digits, which the
models can pronounce. Its English grammars are not used: they lose the "one" of 1,234.5, put backslashes before
quotation marks and fail on some inputs.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import inflect
import regex

_LOG = logging.getLogger(__name__)

Language = Literal["zh", "en"]
NormaliserName = Literal["auto", "wetext", "builtin"]

_HAN = regex.compile(r"[\u4e00-\u9fff]")
_ONLY_PUNCTUATION = regex.compile(r"[\p{P}\p{S}]*")

ABBREVIATIONS = {
    "Mr": "Mister",
    "Mrs": "Missus",
    "Ms": "Miss",
    "Dr": "Doctor",
    "Prof": "Professor",
    "Sr": "Senior",
    "Jr": "Junior",
    "St": "Saint",
    "vs": "versus",
}
"""English abbreviations whose full stop does not end a sentence."""

_inflect = inflect.engine()
_LONGEST_NUMBER = 15  # digits
_DIGITS = regex.compile(r"\d+")
_GROUPED = regex.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")  # 1,234,567
_DECIMALS = regex.compile(r"(?<=\d)\.(\d+)")
_ORDINAL = regex.compile(r"\b[0-9]{1,15}(?:st|nd|rd|th)\b")
_INITIALS = regex.compile(r"\b(?:\p{L}\.){2,}")
_ENGLISH_READINGS: tuple[tuple[regex.Pattern[str], str], ...] = (
    (regex.compile(r"\$(\d+(?:\.\d+)?)"), r"\1 dollars"),
    (regex.compile(r"(?<=\d)\s?%"), " percent"),
    (regex.compile(r"(?<=\d):(?=\d)"), " "),
)


def language_of(text: str) -> Language:
    """Return `zh` if the text has a Chinese character, else `en`: the family's two sets of rules."""
    return "zh" if _HAN.search(text) else "en"


def only_punctuation(text: str) -> bool:
    """Return whether `text` has nothing to speak; true for an empty text."""
    return _ONLY_PUNCTUATION.fullmatch(text) is not None


def is_verbatim(text: str) -> bool:
    """Return whether `text` has `<|...|>` control tokens, which disable normalisation (spec section 2.1)."""
    start = text.find("<|")
    return start >= 0 and text.find("|>", start + 2) >= 0


def spell_digits(text: str) -> str:
    """Replace every run of digits by English words: `call 911` -> `call nine hundred and eleven`."""
    return _DIGITS.sub(_words, text)


def _words(number: regex.Match[str]) -> str:
    """Read a run of digits as a number, or digit by digit if it is too long."""
    digits = "".join(str(int(digit)) for digit in number.group())
    if len(digits) > _LONGEST_NUMBER:
        return " ".join(_read(digit) for digit in digits)
    return _read(digits)


@lru_cache(maxsize=4096)
def _read(number: str) -> str:
    """Read a number or an ordinal. The library needs half a millisecond for each."""
    return str(_inflect.number_to_words(number))


def drop_blanks(text: str) -> str:
    """Keep a space only between two ASCII characters that are not spaces themselves (spec section 2.2)."""
    kept = []
    for i, char in enumerate(text):
        if char == " ":
            before, after = text[i - 1 : i], text[i + 1 : i + 2]
            if not (before.isascii() and after.isascii() and before.strip(" ") and after.strip(" ")):
                continue
        kept.append(char)
    return "".join(kept)


class Normaliser:
    """Normalises text as in the models' training data. Thread-safe."""

    def __init__(self, name: NormaliserName = "auto") -> None:
        """`auto` reads Chinese with wetext if it is installed, as the model family does.

        Raises ValueError if `name` is wetext and it is not installed.
        """
        installed = importlib.util.find_spec("wetext") is not None
        if name == "wetext" and not installed:
            raise ValueError("text normaliser 'wetext' is not installed; pip install wetext, or select 'builtin'")
        self.name: Literal["wetext", "builtin"] = "builtin" if name == "builtin" or not installed else "wetext"
        self._wetext = None if self.name == "builtin" else _load_wetext()
        self._lock = threading.Lock()

    def __call__(self, text: str, language: Language) -> str:
        """Return the text in words, stripped. Text with control tokens is returned unchanged."""
        if is_verbatim(text):
            return text
        text = _GROUPED.sub(lambda match: match.group().replace(",", ""), text.strip())
        return self._chinese(text) if language == "zh" else self._english(text)

    def _chinese(self, text: str) -> str:
        text = regex.sub(r"¥(?=[\d.]+元)", "", text.replace("￥", "¥"))
        text = self._read_numbers(text).replace("\n", "")
        text = drop_blanks(text).replace("²", "平方").replace("³", "立方")
        text = regex.sub(r"(?<=\d)\.(?=\d)", "点", text)
        text = text.replace(".", "。").replace(" - ", "，")
        text = regex.sub(r"[（）【】`]", "", text).replace("——", " ")
        return regex.sub(r"[，,、]+$", "。", text)

    def _english(self, text: str) -> str:
        for short, word in ABBREVIATIONS.items():
            text = regex.sub(rf"\b{short}\.", word, text)
        text = _INITIALS.sub(lambda match: " ".join(match.group().replace(".", " ").split()), text)
        for pattern, reading in _ENGLISH_READINGS:
            text = pattern.sub(reading, text)
        text = _DECIMALS.sub(lambda match: " point " + " ".join(match.group(1)), text)
        text = _ORDINAL.sub(lambda match: _read(match.group()), text)
        return spell_digits(text)

    def _read_numbers(self, text: str) -> str:
        if self._wetext is None:
            return text
        try:
            with self._lock:  # the grammars are shared and not documented as thread-safe
                words = self._wetext(text)
        except AssertionError:  # its grammars have no reading for this text
            _LOG.warning("wetext cannot read a sentence of %d characters; its digits stay digits", len(text))
            return text
        return words.replace("\\", "")  # it escapes quotation marks; a backslash is not spoken


def _load_wetext() -> Callable[[str], str]:
    from wetext import Normalizer  # an optional extra

    normalise: Callable[[str], str] = Normalizer(lang="zh", operator="tn", remove_erhua=False).normalize
    return normalise
