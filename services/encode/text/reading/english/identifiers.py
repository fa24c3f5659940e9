"""Digits that name something: codes, rooms, flights, versions, and digits among letters."""

from __future__ import annotations

import regex

from services.encode.text.reading.english.amounts import counts
from services.encode.text.reading.rule import Match, rule
from services.encode.text.reading.words import cardinal, code, grouped, label, spelled, year

_CODES = (
    r"codes?|pins?|passcodes?|passwords?|otp|zip(?:[ ]?codes?)?|postcodes?|post[ ]codes?|ssn|iban|imei|isbn|serial|"
    r"tracking|confirmation|verification|accounts?|acct\.?|routing|sort[ ]code|"
    r"card|extensions?|ext\.?|licen[cs]e|passport|vin|"
    r"sku|ends?[ ](?:in|with)|ending[ ](?:in|with)|last[ ]four(?:[ ]digits)?|mac|upc|ean|imsi|swift|plate|meter"
)
_LABELS = (
    r"rooms?|flights?|orders?|invoices?|tickets?|cases?|references?|ref\.?|bookings?|reservations?|gates?|suites?|"
    r"apartments?|apt\.?|units?|bus(?:es)?|routes?|highways?|hwy\.?|interstates?|trains?|channels?|models?|parts?|"
    r"bugs?|issues?|requests?|customers?|members?|employees?|students?|patients?|polic(?:y|ies)|claims?|transactions?|"
    r"numbers?|nos?\.?|errors?|http|status|rfc|iso|boeing|airbus|box(?:es)?|lockers?|seats?|platforms?|terminals?|id|"
    r"ids|user|ids?|hall|building|bldg\.?|lot|batch|item|line|track|node|port|page[ ]id|pull[ ]request|pr|build"
)
_LINKS = (
    r"(?:\s+(?:numbers?|codes?|nos?\.?|num\.?|ids?|is|was|are|were|of|ending[ ]in|ends[ ]in|digits?|=))*"
    r"(?:\s*['\"(:#=]+|\s+\#|\s+)\s*(?:number[ ])?(?-i:[A-Z]{2}[ ])?"
)
_PLAIN = r"\d+(?![\w]|[.,:/]\d|%|°)"
_DIGITS = regex.compile(r"\d+(?:-\d+)*")
_NUMBERS = regex.compile(r"\d+")
_GROUPED = regex.compile(r"[1-9]\d{0,2}(?:\.\d{3}){2,}")  # 1.234.567
_RUNS = regex.compile(r"\d+|\D+")
_COUNTED = regex.compile(r"(?:orders?|cases?|units?|numbers?|parts?|items?|line|lot|batch)$", regex.IGNORECASE)


def _code(match: Match) -> str:
    read = _DIGITS.sub(lambda number: grouped(number.group().split("-")), match["numbers"])
    return match["before"] + read


def _label(match: Match) -> str | None:
    numbers = match["numbers"]
    if counts(match.string, match.end()) and (len(numbers) < 5 or _COUNTED.search(match["word"])):
        return None
    read = _NUMBERS.sub(lambda number: label(number.group()), numbers)
    return (
        match["before"] + regex.sub(r"(?<=\w)[-–](?=\w)", " to ", read)
        if "-" in numbers or "–" in numbers
        else match["before"] + read
    )


def _version(match: Match) -> str | None:
    if not match["v"] and _GROUPED.fullmatch(match["numbers"]):
        return None
    numbers = match["numbers"].split(".")
    read = " point ".join(
        cardinal(part) if len(part) <= 3 else year(part) if len(part) == 4 else spelled(part) for part in numbers
    )
    return f"{match['v']} {read}" if match["v"] else read


def _mixed(match: Match) -> str:
    runs = _RUNS.findall(match.group())
    return " ".join(code(run) if run.isdigit() else run for run in runs)


def _zip(match: Match) -> str:
    return grouped(match.group().split("-"))


CONTEXT_RULES = (
    rule(
        "code",
        rf"(?i)(?P<before>\b(?P<word>{_CODES}){_LINKS})(?P<numbers>\d+(?:-\d+)*"
        r"(?:(?:,?\s+(?:and|or)|,)\s+\d+(?:-\d+)*(?![\w]|[.,:/]\d|\s?%))*)(?![\w]|[.,:/]\d|%|°|[ ]\d{3}(?!\d))",
        _code,
    ),
    rule(
        "label",
        rf"(?i)(?P<before>\b(?P<word>{_LABELS}){_LINKS})(?P<numbers>{_PLAIN}"
        rf"(?:(?:(?:,?\s+(?:and|or|to|through)|,)\s+|\s?[-–]\s?){_PLAIN})*)(?![ ]\d{{3}}(?!\d))",
        _label,
    ),
    rule("zip code", r"(?<![\w.,-])\d{5}-\d{4}(?![\w-]|[.,]\d)", _zip, "-"),
)
RULES = (
    rule("version", r"(?<![\w.])(?P<v>[vV]\.?\s?(?=\d))?(?P<numbers>\d+(?:\.\d+){2,})(?!\w|\.\d)", _version, "."),
    rule("version with v", r"(?<![\w.])(?P<v>[vV])(?P<numbers>\d+\.\d+)(?!\w|\.\d)", _version, "vV"),
)
MIXED = rule("digits among letters", r"(?<![\p{L}\p{N}]|\d[.,])(?=\p{L}*\d)(?=\d*\p{L})[\p{L}\d]+", _mixed)
