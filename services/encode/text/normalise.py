"""Written text to words as they are read (spec sections 2.1 and 2.2).

The rules of the model family come first; around them stand a few readings of our own for English that the family's
rule ("spell every run of digits") gets wrong: 3.5, 1,234, 10:30, 3rd, Mr., U.S., 50%. Dates and telephone numbers are
known to be read wrong, and years are read as numbers.

Chinese numbers, dates and sums of money are read by the optional package `wetext`; without it digits stay digits, which
the models pronounce by themselves. Its English grammars are not used: they lose the "one" of 1,234.5, put backslashes
before quotation marks and stop at some inputs.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Callable
from typing import Literal

import inflect
import regex

_LOG = logging.getLogger(__name__)

Language = Literal["zh", "en"]
NormaliserName = Literal["auto", "wetext", "builtin"]

_HAN = regex.compile(r"[\u4e00-\u9fff]")
_ONLY_PUNCTUATION = regex.compile(r"[\p{P}\p{S}]*")
_TAG = regex.compile(r"<\|.*?\|>", regex.DOTALL)

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
"""English abbreviations that end in a full stop which ends no sentence."""

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
    """`zh` when the text holds a Chinese character, else `en`: the family's two sets of rules."""
    return "zh" if _HAN.search(text) else "en"


def only_punctuation(text: str) -> bool:
    """Whether nothing in `text` can be spoken; true for the empty text."""
    return _ONLY_PUNCTUATION.fullmatch(text) is not None


def is_verbatim(text: str) -> bool:
    """Whether `text` carries `<|...|>` control tokens, which switch normalisation off (spec section 2.1)."""
    return _TAG.search(text) is not None


def spell_digits(text: str) -> str:
    """Every run of digits as English words: `call 911` -> `call nine hundred and eleven`."""
    return _DIGITS.sub(_words, text)


def _words(number: regex.Match[str]) -> str:
    """A run of digits as a number, or digit by digit when it is too long to be one."""
    digits = "".join(str(int(digit)) for digit in number.group())
    if len(digits) > _LONGEST_NUMBER:
        return " ".join(str(_inflect.number_to_words(digit)) for digit in digits)
    return str(_inflect.number_to_words(digits))


def drop_blanks(text: str) -> str:
    """Keeps a space only between two ASCII characters that are not spaces themselves (spec section 2.2)."""
    kept = []
    for i, char in enumerate(text):
        if char == " ":
            before, after = text[i - 1 : i], text[i + 1 : i + 2]
            if not (before.isascii() and after.isascii() and before.strip(" ") and after.strip(" ")):
                continue
        kept.append(char)
    return "".join(kept)


class Normaliser:
    """Reads text the way the models were trained on. Safe to share between threads."""

    def __init__(self, name: NormaliserName = "auto") -> None:
        """`auto` reads Chinese with wetext when it is installed, which is what the model family does.

        Raises ValueError when wetext is asked for and not installed.
        """
        installed = importlib.util.find_spec("wetext") is not None
        if name == "wetext" and not installed:
            raise ValueError("text normaliser 'wetext' is not installed; pip install wetext, or choose 'builtin'")
        self.name: Literal["wetext", "builtin"] = "builtin" if name == "builtin" or not installed else "wetext"
        self._wetext = None if self.name == "builtin" else _load_wetext()
        self._lock = threading.Lock()

    def __call__(self, text: str, language: Language) -> str:
        """The text in words, stripped. Text with control tokens comes back as it is."""
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
        text = _ORDINAL.sub(lambda match: str(_inflect.number_to_words(match.group())), text)
        return spell_digits(text)

    def _read_numbers(self, text: str) -> str:
        if self._wetext is None:
            return text
        try:
            with self._lock:  # the grammars are shared and make no promise about threads
                words = self._wetext(text)
        except AssertionError:  # its grammars have no reading: as without them
            _LOG.warning("wetext could not read a sentence of %d characters; its digits stay digits", len(text))
            return text
        return words.replace("\\", "")  # it escapes quotation marks; a backslash is not spoken


def _load_wetext() -> Callable[[str], str]:
    from wetext import Normalizer  # an optional extra

    normalise: Callable[[str], str] = Normalizer(lang="zh", operator="tn", remove_erhua=False).normalize
    return normalise
