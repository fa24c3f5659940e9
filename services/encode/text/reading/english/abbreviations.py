"""Abbreviations that are read as words, and initialisms."""

from __future__ import annotations

import regex

from services.encode.text.borders.abbreviations import STARTERS
from services.encode.text.reading.rule import Match, rule

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
_WORDS = {
    **ABBREVIATIONS, "Rev": "Reverend", "Gen": "General", "Sgt": "Sergeant", "Capt": "Captain", "Lt": "Lieutenant",
    "Col": "Colonel", "Hon": "Honorable", "Gov": "Governor", "Sen": "Senator", "Rep": "Representative", "Mt": "Mount",
    "Ft": "Fort", "etc": "et cetera", "approx": "approximately", "dept": "department", "Dept": "Department",
    "Ave": "Avenue", "Blvd": "Boulevard", "Rd": "Road", "Inc": "Incorporated", "Ltd": "Limited", "Corp": "Corporation",
    "Co": "Company", "Bros": "Brothers", "est": "established", "min": "minute", "max": "maximum",
}  # fmt: skip
_TITLED = frozenset(["Rev", "Gen", "Sgt", "Capt", "Lt", "Col", "Hon", "Gov", "Sen", "Rep", "Mt", "Ft"])
_LATIN = {"e.g.": "for example", "i.e.": "that is", "E.g.": "For example", "I.e.": "That is", "eg.": "for example"}
_DRIVE = regex.compile(r"(?:\b(?:on|at|to|off|of|down|from|along)|\d\S*)\s(?:\p{Lu}[\p{Ll}'’]+\s){1,2}$")
_NAME = regex.compile(r"\s(\p{Lu}\p{L}*)")
_DEGREES = r"\b(?P<letters>Ph\.?D|M\.?D|B\.?Sc|M\.?Sc|LL\.?[BM]|B\.?A|M\.?A|D\.?Phil)\."
_NAMES = "|".join(word for word in _WORDS if word not in ("min", "max", "est", "Co"))


def _street(match: Match) -> str | None:
    """Read St. after a street's name or number as Street, else as Saint."""
    text, start, end = match.string, match.start(), match.end()
    numbered = regex.search(r"\d(?:st|nd|rd|th)\s$", text[:start]) is not None
    named = regex.search(r"\d\S*\s(?:\p{L}\.?\s)?(?:\p{Lu}[\p{Ll}'’]+\s){1,2}$", text[:start]) is not None
    followed = regex.match(r"\s\p{Lu}\p{Ll}", text[end:]) is not None
    after_name = regex.search(r"\p{Lu}[\p{Ll}'’]+\s$", text[:start]) is not None and not followed and start > 0
    return "Street" if numbered or named or after_name else "Saint"


def _word(match: Match) -> str | None:
    word = match["word"]
    if word == "Dr" and _DRIVE.search(match.string, 0, match.start()):
        follows = _NAME.match(match.string, match.end())
        if follows is None:
            return "Drive"
        if follows.group(1).casefold() in STARTERS:
            return "Drive."
    if word in _TITLED and not regex.match(r"\s\p{Lu}", match.string[match.end() :]):
        return None
    return _WORDS[word]


def _latin(match: Match) -> str:
    return _LATIN[match.group()]


def _initials(match: Match) -> str:
    return " ".join(match.group().replace(".", " ").split())


LEADING = (
    rule("degree", _DEGREES, lambda match: match["letters"].replace(".", ""), "."),
    rule("for example", r"\b(?:[eE]\.g\.|[iI]\.e\.)", _latin, ".", when=r"\.[eg]\."),
    rule("street or saint", r"\bSt\.", _street, ".", words=("st",)),
    rule("abbreviation", rf"\b(?P<word>{_NAMES})\.", _word, ".", words=[word.lower() for word in _WORDS]),
)
INITIALS = rule("initials", r"\b(?:\p{L}\.){2,}", _initials, ".", when=r"\.[^\W\d_]\.")
