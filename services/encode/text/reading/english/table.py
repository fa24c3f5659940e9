"""The rules for English in their order, and the reader that applies them."""

from __future__ import annotations

import re
import unicodedata

from services.encode.text.cleaning.sentence import written_fractions
from services.encode.text.reading.english import (
    abbreviations,
    addresses,
    calendar,
    clock,
    fractions,
    identifiers,
    money,
    quantities,
    roman,
    symbols,
    telephone,
    units,
)
from services.encode.text.reading.quick.english import read_quickly
from services.encode.text.reading.rule import RuleSet

WORDS = RuleSet(
    symbols.STAR,
    symbols.KEYS,
    *addresses.RULES,
    *abbreviations.LEADING,
    *roman.RULES,
    units.SQUARE,
    quantities.ION,
    quantities.TIMES_TEN,
    quantities.POWER,
)
"""Rules for sentences with or without digits, tried first."""
NUMBERS = RuleSet(
    identifiers.STANDARD,
    identifiers.VULNERABILITY,
    *fractions.RULES,
    clock.HOURS_OF_A_DAY,
    *calendar.RULES[:2],
    *telephone.RULES,
    *symbols.RULES,
    *calendar.RULES[2:],
    *identifiers.CONTEXT_RULES,
    *clock.RULES,
    *money.RULES,
    *identifiers.RULES,
    *quantities.ORDINALS,
    *quantities.RULES[:1],
    *units.RULES,
    *symbols.ARITHMETIC,
    *quantities.RANGES,
    identifiers.RESOLUTION,
    identifiers.MIXED,
    *quantities.RULES[1:],
    quantities.LAST_RESORT,
)
"""Rules for sentences with digits, in their order: a rule sees what the rules before it have left."""
ARITHMETIC = RuleSet(*symbols.RULES, *symbols.ARITHMETIC)
"""Rules for sentences without digits that have operators."""
REST = RuleSet(*symbols.REST, quantities.INDEX, abbreviations.INITIALS)

# Most sentences need no rule. These find what the rules of WORDS, ARITHMETIC and REST look for.
_DIGIT = re.compile(r"\d")
_OTHER_DIGIT = re.compile(r"(?![0-9])\d")
_SIGN = re.compile(
    "[" + re.escape("$&@+%*=<>§¶√№#/\\^×÷²³¹⁰⁴⁵⁶⁷⁸⁹⁻⁺≤≥≠≈±" + "".join(symbols.MATHEMATICS) + symbols.GREEK) + "]"
)
_OPERATORS = frozenset("$=+<>×÷√#§^≤≥≠≈±")
_INNER_STOP = re.compile(  # a stop first, because the search for one character is many times faster
    r"\.(?:\w|"
    + "|".join(rf"(?<=\b[A-Z][a-z]{{{letters}}}\.)" for letters in range(5))
    + "".join(rf"|(?<={word}\.)" for word in abbreviations.INNER)
    + r"|(?<=vs\.)|(?<=etc\.)|(?<=approx\.)|(?<=dept\.))"
)
_CAPITALS = re.compile(  # Roman numerals and abbreviations; a capital first, as the stop above
    r"[IVXLCSDMABRP](?:(?<=[IVXLC])"
    rf"(?:[IVXLC]{{1,6}}(?![\w-])|(?<=[a-zA-Z] [VX])(?![\w-])|(?<=[a-z] I)(?=[.,;:!?]|$| (?:{roman.AFTER_ONE})\b)"
    r"|(?<=[A-Z]{2} I)(?![\w-])"
    r"|(?= century)|(?<=War I)(?![\w-]|['’](?:m|d|ll|ve)\b))"
    f"|{abbreviations.WITHOUT_STOP})"
)
_WEEKDAYS = re.compile(abbreviations.WEEKDAYS)
_LAST_MONTH = re.compile(abbreviations.LAST_MONTH)
_WEEKDAY = re.compile(abbreviations.SHORT_WEEKDAY)
_MONTH = re.compile(abbreviations.SHORT_MONTH)
_VERSUS = re.compile(r"\bvs\b(?!\.)")


def read_english(text: str) -> str:
    """Return the sentence with its numbers and symbols as words. No digit remains."""
    if not text.isascii():
        text = _ascii_digits(written_fractions(text))
    if _DIGIT.search(text) is None:
        return _read_by_rules(text, digits=False) if _needs_rules(text) else text
    quick = read_quickly(text)
    # Of the signs that the rules read, a sentence with a quick reading can have only these.
    if quick is None or "%" in quick or "#" in quick or "/" in quick or _has_words_for_rules(quick):
        return _read_by_rules(text, digits=True)
    return quick


def read_by_rules(text: str) -> str:
    """Return what `read_english` returns, by the rules alone."""
    if not text.isascii():
        text = _ascii_digits(written_fractions(text))
    return _read_by_rules(text, digits=_DIGIT.search(text) is not None)


def _read_by_rules(text: str, *, digits: bool) -> str:
    text = WORDS(text)
    if digits:
        text = NUMBERS(text)
    elif not _OPERATORS.isdisjoint(text):
        text = ARITHMETIC(text)
    return REST(text)


def _needs_rules(text: str) -> bool:
    """Return whether a rule may apply to a sentence without digits."""
    return _SIGN.search(text) is not None or _has_words_for_rules(text)


def _has_words_for_rules(text: str) -> bool:
    return (
        ("." in text and _INNER_STOP.search(text) is not None)
        or _CAPITALS.search(text) is not None
        or ("vs" in text and _VERSUS.search(text) is not None)
        or " v. " in text
        or " v " in text
        or _WEEKDAY.search(text) is not None
        or _MONTH.search(text) is not None
        or (("-" in text or "–" in text or "—" in text) and _WEEKDAYS.search(text) is not None)
        or (("-" in text or "–" in text or "/" in text) and _LAST_MONTH.search(text) is not None)
    )


def _ascii_digits(text: str) -> str:
    """Write the digits of other scripts as 0 to 9."""
    if _OTHER_DIGIT.search(text) is None:
        return text
    return "".join(
        str(unicodedata.decimal(char)) if char > "\x7f" and unicodedata.category(char) == "Nd" else char
        for char in text
    )
