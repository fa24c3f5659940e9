"""Fractions: 1/2, 3 1/2."""

from __future__ import annotations

from services.encode.text.reading.rule import Match
from services.encode.text.reading.words import cardinal, ordinal

FRACTION = (
    r"(?:(?P<whole>\d{1,15})(?:\s(?:and\s)?|-)(?=\d{1,3}/))?(?P<over>\d{1,3})/(?P<under>[1-9]\d{0,3})(?![\d/]|[.,]\d)"
)


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
