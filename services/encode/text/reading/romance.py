"""Roman numerals and short ordinals of French, Spanish, Italian and Portuguese: XXe siècle, siglo XXI, 3er, 2nde."""

from __future__ import annotations

from collections.abc import Callable

import regex

from services.encode.text.reading.number_words import roman_value
from services.encode.text.reading.rule import Match

Say = Callable[[int, str], str]
"""A number in words; the second argument is a kind of num2words: `cardinal` or `ordinal`."""
_NUMERAL = r"(?P<numeral>[IVX]+)"
_FRENCH = regex.compile(
    r"(?<![\w-])(?P<numeral>[IVX]+)(?:e|ème|er|ère)(?=\s(?:et\s[IVX]+e\s)?(?:siècles?|République|arrondissement|dynastie|Reich|millénaire)\b"
    r"|\set\s[IVX]+e\ssiècles?\b)"
)
_FRENCH_RULER = regex.compile(
    r"(?<=\b(?:Louis|Henri|Charles|François|Napoléon|Philippe|Jean-Paul|Benoît|Pie|Léon|Grégoire|Albert|Élisabeth|Elizabeth)\s)"
    r"(?P<numeral>[IVX]+)(?P<first>er)?(?![\w-])"
)
_CENTURIES = {
    "es": regex.compile(rf"(?<=\b[Ss]iglos?\s(?:[IVX]+\s[ya]\s(?:siglo\s)?)?){_NUMERAL}(?![\w-])"),
    "pt": regex.compile(rf"(?<=\b[Ss]éculos?\s(?:[IVX]+\s[ea]\s)?){_NUMERAL}(?![\w-])"),
    "it": regex.compile(rf"(?<![\w-]){_NUMERAL}(?=\s(?:secolo|millennio)\b)|(?<=\b[Ss]ecolo\s){_NUMERAL}(?![\w-])"),
}
_RULERS = {
    "es": regex.compile(
        r"(?<=\b(?:Felipe|Carlos|Fernando|Alfonso|Isabel|Enrique|Luis|Juan\sPablo|Benedicto|Pío|León|Jorge|Pedro)\s)"
        r"(?P<numeral>[IVX]+)(?![\w-])"
    ),
}
_LONGEST_ORDINAL = 10
"""Rulers up to the tenth have an ordinal in Spanish: Felipe sexto, but Luis catorce."""
_SPANISH = regex.compile(r"(?<![\w.,])(?P<number>[1-9]\d?)\.?(?P<ending>er|ro|ra|do|da|to|ta|mo|ma|vo|va|no|na)(?!\w)")
_FRENCH_SECOND = {"2nde": "seconde", "2nd": "second", "2ndes": "secondes", "2nds": "seconds"}
_SECOND = regex.compile(r"(?<![\w.,])2nde?s?(?!\w)")


def read_romance(text: str, language: str, say: Say) -> str:
    """Return the text with what this module reads in words."""
    if language == "fr":
        text = _FRENCH.sub(lambda match: _french(match, say), text)
        text = _FRENCH_RULER.sub(lambda match: _french_ruler(match, say), text)
        return _SECOND.sub(lambda match: _FRENCH_SECOND[match.group()], text)
    if language in _CENTURIES:
        text = _CENTURIES[language].sub(lambda match: _century(match, language, say), text)
    if language == "es":
        text = _RULERS["es"].sub(lambda match: _spanish_ruler(match, say), text)
        text = _SPANISH.sub(lambda match: _spanish(match, say), text)
    return text


def _french(match: Match, say: Say) -> str:
    value = roman_value(match["numeral"])
    if not value:
        return match.group()
    if value > 1:
        return say(value, "ordinal")
    return "première" if match.string.startswith((" République", " dynastie"), match.end()) else "premier"


def _french_ruler(match: Match, say: Say) -> str:
    value = roman_value(match["numeral"])
    if not value or (value == 1 and not match["first"]):
        return match.group()
    return "premier" if value == 1 else say(value, "cardinal")


def _century(match: Match, language: str, say: Say) -> str:
    value = roman_value(match["numeral"])
    if not value:
        return match.group()
    ordinal = language == "it" or (language == "pt" and value <= _LONGEST_ORDINAL)
    return say(value, "ordinal" if ordinal else "cardinal")


def _spanish_ruler(match: Match, say: Say) -> str:
    value = roman_value(match["numeral"])
    if not value:
        return match.group()
    words = say(value, "ordinal" if value <= _LONGEST_ORDINAL else "cardinal")
    feminine = match.string[: match.start()].endswith("Isabel ") and words.endswith("o")
    return f"{words[:-1]}a" if feminine else words


def _spanish(match: Match, say: Say) -> str:
    """Read 3er, 2da and 1ro, unless the ending is not that of the ordinal."""
    words, ending = say(int(match["number"]), "ordinal"), match["ending"]
    if ending == "er":
        return words[:-1] if words.endswith(("primero", "tercero")) else match.group()
    if words[-2:-1] != ending[0]:
        return match.group()
    return words[:-1] + ending[-1]
