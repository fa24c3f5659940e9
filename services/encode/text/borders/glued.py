"""Decides whether a mark that letters touch on both sides ends a sentence: `12345.Let me`, not `example.com`."""

from __future__ import annotations

import regex

from services.encode.text.borders.abbreviations import STARTERS, word_before
from services.encode.text.borders.words import words

_DIGITS = regex.compile(r"\d\d$")
_NEXT_WORD = regex.compile(r"\p{Lu}[\p{L}--\p{Han}]*", regex.V1)
_BEFORE = regex.compile(r"\S*$")
_LONGEST_WORD = 30
_WINDOW = 80
# Ends of domain and file names, which are written in capitals too.
_NAMES = words("""
    com net org edu gov mil int info biz io ai app dev co uk us de fr it es nl eu cn jp kr ru br in au ca ch at be me tv
    js ts py rb go rs java cs cpp html htm css php pdf txt doc docx xls xlsx ppt pptx csv tsv json xml yaml yml zip tar
    gz rar exe dll md rtf png jpg jpeg gif bmp svg mp mov avi wav flac ogg aac iso img bin bat sh sql db log cfg ini
    hk sz bj
    """)
_STARTERS = STARTERS | words("go me us be")
"""Of the names, those that begin a sentence in title case, before a blank."""
_PART_OF_NAME = regex.compile(r"[/\\@#=&]|^www\.|\p{L}\.\p{L}")
"""In the text before a mark: an address, a path, or a name with dots."""
_WIDE = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}]")


def ends_sentence(text: str, mark: int, *, final: bool = False) -> bool | None:
    """Return whether the single mark at `mark`, which no white space follows, ends a sentence.

    Returns None if later text decides; `final`: there is none.
    """
    char = text[mark]
    if char not in ".?!" or mark == 0:
        return False
    before = _BEFORE.search(text[max(0, mark - _WINDOW) : mark])
    token = before.group() if before is not None else ""
    if not token or _PART_OF_NAME.search(token):
        return False
    if char != "." and _WIDE.match(text, mark + 1):
        return True
    if not (text[mark - 1].isalpha() or _DIGITS.search(token) or text[mark - 1] in ')”"’%'):
        return False
    if char == "." and word_before(text, mark):  # U.S.Army, J.Smith, Mr.Smith
        return False
    return _before_word(text, mark, final=final)


def _before_word(text: str, mark: int, *, final: bool) -> bool | None:
    word = _NEXT_WORD.match(text, mark + 1)
    if word is None:
        return False
    if len(word.group()) > _LONGEST_WORD:
        return True
    if word.end() == len(text) and not final:
        return None
    key = word.group().casefold()
    if len(key) < 2 or (
        key in _NAMES and not (key in _STARTERS and word.group().istitle() and text[word.end()] == " ")
    ):
        return False
    return _not_in_a_name(text, word.end(), final=final)


def _not_in_a_name(text: str, end: int, *, final: bool) -> bool | None:
    """Return whether the word that ends at `end` is not part of a name such as `Math.Max(3)` or `System.Out.Line`."""
    if text[end : end + 1] != ".":
        return text[end : end + 1] not in {"(", "@", "_", "/"}
    if end + 1 == len(text):
        return True if final else None
    return text[end + 1].isspace()
