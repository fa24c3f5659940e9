"""Roman numerals, where the word before makes them certain."""

from __future__ import annotations

import regex

from services.encode.text.reading.number_words import roman_value
from services.encode.text.reading.rule import Match, rule
from services.encode.text.reading.words import cardinal, ordinal

_RULERS = (
    r"Louis|Henry|Elizabeth|Charles|George|Edward|Richard|William|James|Philip|Felipe|Francis|Frederick|Friedrich|Paul|"
    r"Benedict|Pius|Leo|Gregory|Clement|Innocent|Urban|Alexander|Catherine|Napoleon|Nicholas|Peter|Ivan|Ferdinand|Alfonso|"
    r"Carlos|Albert|Harald|Gustav|Gustaf|Wilhelm|Otto|Ramesses|Rameses|Ramses|Thutmose|Amenhotep|Ptolemy|Cleopatra|Mary|"
    r"Christian|Haakon|Olav|Leopold|Umberto|Victor|Emmanuel|Joseph|Franz|Murad|Mehmed|Selim|Darius|Xerxes|Rama|John|Robert"
)
_TITLES = r"King|Queen|Pope|Emperor|Empress|Tsar|Czar|Kaiser|Sultan|Pharaoh|Prince|Duke"  # codespell:ignore
_THINGS = (
    r"War|Chapter|Part|Act|Scene|Volume|Vol\.|vol\.|Ch\.|ch\.|Book|Section|Article|Title|Phase|Type|Class|Stage|Level|Grade|Category|Tier|"
    r"Appendix|Annex|Figure|Table|Bowl|Schedule|Step|Round|Unit|Module|Mark|Mk|Apollo|Saturn|Fantasy|Rocky|Episode|Season|"
    r"Lesson|Psalm|Canto|Symphony|Concerto|Sonata|Olympiad|Lambeth|Vatican|Factor|Theft[ ]Auto|"
    r"Diablo|Civilization|Civ|GTA|WrestleMania|"
    r"CHAPTER|PART|BOOK|ACT|SCENE|VOLUME|SECTION|ARTICLE|TITLE|APPENDIX|PSALM|CANTO|EPISODE|LETTER|LESSON|PHASE"
)
_ABBREVIATED = {"Vol.": "Volume", "vol.": "volume", "Ch.": "Chapter", "ch.": "chapter"}
_NUMERAL = r"(?P<numeral>[IVXLC]+)"
AFTER_ONE = (
    "of|and|to|or|in|was|is|died|ruled|reigned|became|succeeded|abdicated|married|had|met|ordered|founded|signed"
)
"""Words before which a single I is a number after a word that has numbers."""
_BEFORE_ONE = regex.compile(rf"$|[.,;:!?)]|\s(?:{AFTER_ONE})\b|['’]s")


def _certain(match: Match) -> int | None:
    numeral = match["numeral"]
    if numeral == "I" and (
        match["before"].isupper() or match["before"].endswith("War") or match.groupdict().get("last")
    ):
        return 1
    if numeral in ("I", "C", "L") and not (numeral == "I" and _BEFORE_ONE.match(match.string, match.end())):
        return None
    return roman_value(numeral)


def _ruler(match: Match) -> str | None:
    value = _certain(match)
    if value is None or (match["numeral"] == "I" and not match["title"]):
        return None
    return f"{match['before']} the {ordinal(str(value)).title()}"


def _thing(match: Match) -> str | None:
    value = _certain(match)
    if value is None:
        return None
    before = _ABBREVIATED.get(match["before"], match["before"])
    if match["last"]:
        last = roman_value(match["last"])
        if last is None:
            return None
        return f"{before} {cardinal(str(value))}{match['joint']}{cardinal(str(last))}"
    whole = roman_value(match["whole"]) if match["whole"] else None
    of = f" of {cardinal(str(whole)) if whole else match['whole']}" if match["whole"] else ""
    return f"{before} {cardinal(str(value))}{of}"


def _century(match: Match) -> str | None:
    value = roman_value(match["numeral"])
    return None if not value else f"{ordinal(str(value))} {match['after']}"


def _sequel(match: Match) -> str | None:
    value = roman_value(match["numeral"])
    return None if not value else cardinal(str(value))


RULES = (
    rule(
        "ruler",
        rf"(?P<before>\b(?:(?P<title>{_TITLES})\s+(?:\p{{Lu}}\p{{Ll}}+\s+){{0,2}}|)"
        rf"(?:{_RULERS}))[ ]{_NUMERAL}(?![\w-])",
        _ruler,
        "IVX",
        words=_RULERS.lower().split("|"),
    ),
    rule(
        "numbered part",
        rf"(?P<before>\b(?:{_THINGS})s?)[ ]{_NUMERAL}(?:(?P<joint>[ ](?:and|or|to)[ ])(?P<last>[IVX]+))?"
        rf"(?![\w-]|['’](?:m|d|ll|ve)\b)(?:[ ]of[ ](?P<whole>[IVXLC]+)(?![\w-]))?",
        _thing,
        "IVX",
        words=regex.findall("[a-z]+", f"{_THINGS}|{_THINGS.replace('|', 's|')}s".lower()),
    ),
    rule("century", r"\b(?P<numeral>[IVX]{1,5})(?:th)?[ ](?P<after>century|centuries)\b", _century, "IVX"),
    rule("sequel", r"(?<=\p{Lu}\p{Ll}+[ ])(?P<numeral>X{0,2}V?II{1,2})(?![\w-])", _sequel, "I", when="[IVX]I"),
)
