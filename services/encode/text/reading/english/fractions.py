"""Fractions: 1/2, 3 1/2, and marks written like them: 8/10."""

from __future__ import annotations

import regex

from services.encode.text.reading.rule import Match, rule
from services.encode.text.reading.words import cardinal, ordinal

FRACTION = (
    r"(?:(?P<whole>\d{1,15})(?:\s(?:and\s)?|-)(?=\d{1,3}/))?(?P<over>\d{1,3})/(?P<under>[1-9]\d{0,3})(?![\d/]|[.,]\d)"
)

_SCORED = regex.compile(
    r"\b(?:scor(?:ed?|es|ing)|rat(?:ed?|es|ing)|gave|grade|marked)(?:\s(?:of|is|was|it|him|her|them|us|me|this|that|a))*:?\s$",
    regex.IGNORECASE,
)
_RATED = regex.compile(
    r"""\b(?:(?:giv(?:es?|ing|en)|gave|got|gets?|earn(?:s|ed)?|deserv(?:es?|ed)|award(?:s|ed)?|receive[sd]?
    |rat(?:es?|ed|ing)|scor(?:es?|ed|ing))(?:\s[\w'’-]+){0,4}
    |an?(?:\s(?:solid|easy|perfect|strong|strict|generous|mere|full|clear|good|low|high|decent|respectable|impressive))
    |(?:solid|easy|perfect|overall|verdict|score|rating|grade|marks?|quality|taste|service|food|value|design
    |performance|story|plot|acting|graphics|sound|music|difficulty|mood|(?:pain|energy|stress|anxiety)(?:\slevel)?|confidence|satisfaction
    |comfort|location|cleanliness|style|fit|(?:UV\s)?index|ambience|atmosphere)(?:\s(?:is|was|of|at|about))?[:,]?)\s$""",
    regex.IGNORECASE | regex.VERBOSE,
)
_ARTICLE = regex.compile(r"\b[Aa]n?\s$")
_BEST_MARKS = frozenset(("5", "10", "20", "100"))
_OF_THESE = regex.compile(
    r"""\s(?:stars?|points?|marks|people|users|customers|patients|doctors|dentists|students|respondents|voters|women|men
    |children|kids|adults|parents|teachers|reviewers|critics|companies|employees|questions|answers|correct|times|games
    |matches|tests|checks|cases|tasks|items|steps|nodes|pods|replicas|containers|servers|instances|hosts|workers|jobs
    |services|builds|seats|slots|players|would|on\s(?:the\s(?:pain\s)?scale|IMDb|Metacritic|Steam|Goodreads))\b""",
    regex.VERBOSE,
)
_WHOLE_FOLLOWS = regex.compile(r"\s(?:of|an?)\b")


def is_rating(match: Match) -> bool:
    """Return whether it is a mark or a share of people, not a part of something: an 8/10 movie, 9/10 dentists."""
    text, start, end, under = match.string, match.start(), match.end(), match["under"]
    if _WHOLE_FOLLOWS.match(text, end) is not None:  # 8/10 of the people
        return False
    begin = max(0, start - 40)
    if _SCORED.search(text, begin, start) is not None:
        return True
    if under in _BEST_MARKS and match["over"] != "1" and _RATED.search(text, begin, start) is not None:
        return True
    if under == "10" and _ARTICLE.search(text, begin, start) is not None:
        return True
    return match["over"] != "1" and _OF_THESE.match(text, end) is not None


def fraction_words(match: Match) -> str:
    """Read a fraction with its whole number, if any: 3 1/2 -> three and one half."""
    over, under, whole = match["over"], match["under"], match["whole"]
    parts = {"2": ("half", "halves"), "4": ("quarter", "quarters")}
    if under in parts:
        name = parts[under][0 if over == "1" else 1]
    else:
        name = ordinal(under) + ("" if over == "1" else "s")
    words = f"{cardinal(over)} {name}"
    return f"{cardinal(whole)} and {words}" if whole else words


def is_fraction(match: Match) -> bool:
    """Return whether it is certainly a fraction, and not a date, a score or a pair of numbers."""
    over, under = match["over"], match["under"]
    if over[0] == "0" or under == "1":
        return False
    small = int(under) <= 10 or under in ("12", "16", "20", "32", "50", "64", "100", "1000")
    return (
        small
        and (int(over) < int(under) or match["whole"] is None)
        and (match["whole"] is None or int(over) < int(under))
    )


def _pressure(match: Match) -> str:
    unit = " millimeters of mercury" if match["unit"] else ""
    return f"{cardinal(match['over'])} over {cardinal(match['under'])}{unit}"


_PRESSED = "is|was|of|at|reading|readings|measured|around|about|now|usually|today|below|above|under|over"
PRESSURE = rule(
    "blood pressure",
    r"(?<![\w./])(?P<over>\d{2,3})/(?P<under>\d{2,3})(?:(?P<unit>\s?mm\s?Hg\b)|(?![\w/]|[.,]\d)"
    rf"(?<=\b(?:BP|pressure)(?:\s(?:{_PRESSED})){{0,3}}[:,]?\s\d{{2,3}}/\d{{2,3}}))",
    _pressure,
    "/",
    starts=r"\d",
    words=("bp", "pressure", "mmhg", "hg"),
    near="/",
)


def _overs(match: Match) -> str | None:
    """Read 187/5 as a score of cricket."""
    if match.group() == "24/7" or _CRICKET.search(match.string) is None:
        return None
    return f"{cardinal(match['runs'])} for {cardinal(match['wickets'])}"


def _cups(match: Match) -> str:
    count = match["count"]
    return f"{count} cup{'' if count == '1' or ('/' in count and ' ' not in count and '-' not in count) else 's'}"


def _age(match: Match) -> str:
    return "-year-old" if _ARTICLE_OF_AGE.search(match.string, 0, match.start()) else " years old"


_CRICKET = regex.compile(r"\d\s(?:runs|overs?|ov|wickets?|wkts?)\b|\b(?:innings|T20I?|ODI|cricket|IPL|all\sout)\b")
_ARTICLE_OF_AGE = regex.compile(r"\b(?:[Aa]n?|[Tt]he)\s\d{1,3}$")
_MEASURED = (
    r"cups?|c\.|hours?|hrs?|minutes?|mins?|days?|weeks?|inch(?:es)?|in\.|pounds?|lbs?|ounces?|oz|miles?|tsp|[tT]bsp|"
    r"teaspoons?|tablespoons?"
)
RULES = (
    rule(
        "score of cricket",
        r"(?<![\w./$€£-])(?P<runs>[1-9]\d{1,2})/(?P<wickets>\d)(?![\w/]|[.,]\d)",
        _overs,
        "/",
        starts=r"\d",
        near="/",
    ),
    rule(
        "odds",
        r"(?<=\b[oO]dds\s(?:(?:are|is|of|at|were|now|on)\s)?)(?P<over>\d{1,3})/(?P<under>\d{1,2})(?![\w/]|[.,]\d)",
        lambda match: (
            None if match["over"] == match["under"] else f"{cardinal(match['over'])} to {cardinal(match['under'])}"
        ),
        "/",
        starts=r"\d",
        words=("odds",),
    ),
    rule(
        "mixed number to a number",
        rf"(?<![\w.,/$-]){FRACTION}(?:\s[-–]\s?|[-–])(?=[1-9]\d?(?:[ -]\d/\d|/\d)?\s?(?:{_MEASURED})(?!\w))",
        lambda match: f"{fraction_words(match)} to " if is_fraction(match) else None,
        "/",
        starts=r"\d",
        near="/",
    ),
    rule(
        "cups",
        r"(?<![\w.,/])(?P<count>\d{1,2}(?:[ -]\d/\d|/\d|\.\d)?)\s?c\.(?=\s(?:\(|[a-z]))",
        _cups,
        ".",
        starts=r"\d",
        when=r"\d\s?c\.",
    ),
    rule(
        "age",
        r"(?<=(?<![\d.,])\d{1,3})[ -]?(?:y/o|y\.o\b\.?|yo(?![\w/-]))(?!\w)",
        _age,
        "y",
        when=r"\d[ -]?y(?:/o|\.o|o\b)",
    ),
    rule(
        "interval of doses",
        r"\b[qQ]\.?\s?(?P<low>\d{1,2})(?:-(?P<high>\d{1,2}))?\s?h(?:rs?)?\b\.?(?!\w)",
        lambda match: (
            f"every {cardinal(match['low'])}{' to ' + cardinal(match['high']) if match['high'] else ''} hours"
        ),
        "h",
        when=r"[qQ]\.?\s?\d",
    ),
)
"""Tried before other numbers, as their slashes and dashes are no division, date or range."""
