"""Converts written text to words as they are read.

English is read by the rules in `reading/english`, Chinese by the package `wetext` with the rules in `reading/chinese`
before and after it, and digits of other languages by num2words. The name `upstream` selects the rules of the model
family alone (spec sections 2.1 and 2.2), which spell every run of digits.

wetext's English grammars are not used: they lose the "one" of 1,234.5, put backslashes before quotation marks and fail
on some inputs.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import regex
from num2words import num2words

from services.encode.text.protected import outside_protected
from services.encode.text.reading.chinese.table import read_chinese
from services.encode.text.reading.english.abbreviations import ABBREVIATIONS
from services.encode.text.reading.english.table import read_english
from services.encode.text.reading.other import read_digits

__all__ = [
    "ABBREVIATIONS",
    "HAN_LANGUAGES",
    "Language",
    "Normaliser",
    "NormaliserName",
    "language_of",
    "only_punctuation",
]

_LOG = logging.getLogger(__name__)

Language = str
"""A primary language subtag of BCP 47, such as `en`, `zh` or `de`."""
NormaliserName = Literal["auto", "wetext", "builtin", "upstream"]

_HAN = regex.compile(r"[\u4e00-\u9fff]")
_ONLY_PUNCTUATION = regex.compile(r"[\p{P}\p{S}]*")
_LONGEST_NUMBER = 15  # digits
_DIGITS = regex.compile(r"\d+")
_DROPPED_MARKS = regex.compile(r"[（）【】`]")
_JOINED_BRACKETS = regex.compile(
    r"(?<=第|[图表式]|附件|(?<![A-Za-z])[A-Za-z])（(\w{1,4})）|（([们的地得了儿])）|（(\w{1,3})）(?=班)"
    r"|(?<=[零一二三四五六七八九十百千万亿\d])（((?:平方|立方)?[千厘分毫]?[米克升]|[万亿]?[美欧港]?元|[只个人岁天年次件棵本页张名台辆吨秒块支]|小时|分钟)）"
)
_BRACKETS = regex.compile(r"[（）【】]+")
_BEFORE_COMMA = regex.compile(r"[\p{L}\p{N}\p{S}%‰”’》]")
_AFTER_COMMA = regex.compile(r"[\p{L}\p{N}\p{S}“‘《]")
_LAST_COMMAS = regex.compile(r"[，,、]+$")
HAN_LANGUAGES = frozenset({"zh", "yue", "ja", "ko"})
"""Languages whose texts may have Chinese characters and are not read as Chinese for that."""
_CHINESE = frozenset({"zh", "yue", "cmn", "wuu", "nan", "hak"})


def language_of(text: str) -> Literal["zh", "en"]:
    """Return `zh` if the text has a Chinese character, else `en`: the family's two sets of rules."""
    return "zh" if not text.isascii() and _HAN.search(text) else "en"


def only_punctuation(text: str) -> bool:
    """Return whether `text` has nothing to speak; true for an empty text."""
    return not text[:1].isalnum() and _ONLY_PUNCTUATION.fullmatch(text) is not None


def is_verbatim(text: str) -> bool:
    """Return whether `text` has `<|...|>` control tokens, which disable normalisation (spec section 2.1)."""
    start = text.find("<|")
    return start >= 0 and text.find("|>", start + 2) >= 0


def spell_digits(text: str) -> str:
    """Replace every run of digits by English words, as the family does: `x2` -> `xtwo`."""
    return _DIGITS.sub(_words, text)


def _words(number: regex.Match[str]) -> str:
    """Read a run of digits as a number, or digit by digit if it is too long."""
    digits = "".join(str(int(digit)) for digit in number.group())
    if len(digits) > _LONGEST_NUMBER:
        return " ".join(_read(digit) for digit in digits)
    return _read(digits)


@lru_cache(maxsize=4096)
def _read(number: str) -> str:
    return str(num2words(int(number)))


def _chinese_marks(text: str) -> str:
    text = text.replace("²", "平方").replace("³", "立方").replace(".", "。").replace(" - ", "，")
    return _DROPPED_MARKS.sub("", text).replace("——", " ")


def _brackets(text: str) -> str:
    """Write a comma for a bracket between two words: without it 100（20） is 120."""
    text = _JOINED_BRACKETS.sub(lambda match: match[match.lastindex or 0], text)
    return _BRACKETS.sub(_bracket, text)


def _bracket(match: regex.Match[str]) -> str:
    text, start, end = match.string, match.start(), match.end()
    return "，" if _BEFORE_COMMA.match(text[:start].rstrip(" ")[-1:]) and _AFTER_COMMA.match(text, end) else ""


def drop_blanks(text: str) -> str:
    """Keep a space only between two ASCII characters that are not spaces themselves (spec section 2.2)."""
    if " " not in text:
        return text
    kept = []
    for i, char in enumerate(text):
        if char == " ":
            before, after = text[i - 1 : i], text[i + 1 : i + 2]
            if not (before.isascii() and after.isascii() and before.strip(" ") and after.strip(" ")):
                continue
        kept.append(char)
    return "".join(kept)


class Normaliser:
    """Writes numbers and symbols as words. Thread-safe."""

    def __init__(self, name: NormaliserName = "auto") -> None:
        """`auto` and `upstream` read Chinese with wetext if it is installed, as the model family does.

        Raises ValueError if `name` is wetext and it is not installed.
        """
        installed = importlib.util.find_spec("wetext") is not None
        if name == "wetext" and not installed:
            raise ValueError("text normaliser 'wetext' is not installed; pip install wetext, or select 'builtin'")
        read_by_wetext = installed and name != "builtin"
        self.name: Literal["wetext", "builtin", "upstream"]
        """`wetext` or `builtin`, whichever reads Chinese, or `upstream`."""
        self.name = "upstream" if name == "upstream" else "wetext" if read_by_wetext else "builtin"
        if name == "auto" and not installed:
            _LOG.warning(
                "the package wetext is not installed, so digits in Chinese text stay digits; pip install wetext"
            )
        self._wetext = _load_wetext() if read_by_wetext else None
        self._lock = threading.Lock()

    def __call__(self, text: str, language: Language) -> str:
        """Return the text in words, stripped. Text with control tokens is returned unchanged."""
        if is_verbatim(text):
            return text
        text = text.strip()
        if self.name == "upstream":
            return self._family_chinese(self.read_numbers(text)) if language in _CHINESE else spell_digits(text)
        if language in _CHINESE:
            return self._chinese(text)
        if language == "en":
            return outside_protected(text, read_english)
        return outside_protected(text, lambda part: read_digits(part, language))

    def _chinese(self, text: str) -> str:
        read = self.read_numbers if self._wetext else None
        return self._family_chinese(outside_protected(text, lambda part: _brackets(read_chinese(part, read))))

    def _family_chinese(self, text: str) -> str:
        """Apply the family's replacements of marks (spec section 2.1)."""
        text = outside_protected(drop_blanks(text.replace("\n", "")), _chinese_marks)
        return _LAST_COMMAS.sub("。", text)

    def read_numbers(self, text: str) -> str:
        """Read Chinese numbers by wetext alone; without it the text stays."""
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
    from wetext import Normalizer  # gateways and installations without it run too

    normalise: Callable[[str], str] = Normalizer(lang="zh", operator="tn", remove_erhua=False).normalize
    return normalise
