"""Digits that name something: codes, rooms, flights, versions, and digits among letters."""

from __future__ import annotations

import regex

from services.encode.text.reading.english.amounts import counts
from services.encode.text.reading.english.units import CERTAIN_UNITS
from services.encode.text.reading.rule import Match, rule
from services.encode.text.reading.words import cardinal, code, grouped, label, spelled, year

_CODES = """
code codes pin pins passcode passcodes password passwords otp zip zips postcode postcodes ssn iban imei isbn serial
tracking confirmation verification account accounts acct routing card extension extensions ext license licence
passport vin sku mac upc ean imsi swift plate meter cvv cvc
"""
_CODE_PHRASES = (
    r"zip[ ]?codes?|post[ ]codes?|sort[ ]codes?|ends?[ ](?:in|with)|ending[ ](?:in|with)|last[ ]four(?:[ ]digits)?"
    r"|(?:card|account|number|phone)[ ]ending"
)
_LABELS = """
room rooms flight flights order orders invoice invoices ticket tickets case cases reference references ref booking
bookings reservation reservations gate gates suite suites apartment apartments apt unit units bus buses route routes
highway highways hwy interstate interstates train trains channel channels model models part parts bug bugs issue issues
request requests customer customers member members employee employees student students patient patients policy policies
claim claims transaction transactions number numbers no nos error errors http status rfc iso boeing airbus box boxes
locker lockers seat seats platform platforms terminal terminals id ids user hall building bldg lot batch item line track
node port pr build
"""
STANDARDS = ("ISO", "IEC", "EN", "DIN", "BS", "ANSI", "IEEE", "ASTM", "NFPA", "ETSI", "JIS", "UL")
"""Bodies whose standards have numbers."""
CODE_WORDS, LABEL_WORDS = frozenset(_CODES.split()), frozenset(_LABELS.split())
_LINKS = (
    r"(?:\s+(?:numbers?|codes?|nos?\.?|num\.?|ids?|is|was|are|were|of|ending[ ]in|ends[ ]in|digits?|=))*"
    r"(?:\s*['\"(:#=]+|\s+\#|\s+)\s*(?:number[ ])?(?-i:[A-Z]{2}[ ])?"
)
UNIT_FOLLOWS = rf"\s?(?:%|°|(?:{'|'.join(CERTAIN_UNITS)})\b)"
_PLAIN = rf"\d+(?![\w]|[.,:/]\d|{UNIT_FOLLOWS})"
_DIGITS = regex.compile(r"\d+(?:-\d+)*")
_LAST_NUMBER = regex.compile(r"(?r)\d+")
_NUMBERS = regex.compile(r"\d+")
_GROUPED = regex.compile(r"[1-9]\d{0,2}(?:\.\d{3}){2,}")  # 1.234.567
_RUNS = regex.compile(r"\d+|\D+")
_COUNTED = regex.compile(r"(?:orders?|cases?|units?|numbers?|parts?|items?|line|lot|batch)\s*$", regex.IGNORECASE)
_INNER_DASH = regex.compile(r"(?<=\d)\s?[-–]\s?(?=\d)")
_WORDS = regex.compile(r"[a-z]+")
_CODE_PHRASE = regex.compile(_CODE_PHRASES, regex.VERBOSE)
_BEFORE = regex.compile(rf"(?r)\b(?:{_CODE_PHRASES}|\p{{L}}+)\.?{_LINKS}", regex.IGNORECASE | regex.VERBOSE)


def _names(match: Match, known: frozenset[str]) -> bool:
    """Return whether a word before the number, with nothing but words such as `number is` between, is known."""
    start = match.start()
    before = _BEFORE.match(match.string, max(0, start - 60), start)
    if before is None:
        return False
    phrase = before.group().lower()
    return any(word in known for word in _WORDS.findall(phrase)) or (
        known is CODE_WORDS and _CODE_PHRASE.search(phrase) is not None
    )


def _code(match: Match) -> str | None:
    if not _names(match, CODE_WORDS):
        return None
    return _DIGITS.sub(lambda number: grouped(number.group().split("-")), match["numbers"])


def _joint(dash: Match) -> str:
    """Read the dash of seats 21-23 as `to`, that of a Boeing 747-400 not."""
    first, last = _LAST_NUMBER.search(dash.string, 0, dash.start()), _DIGITS.match(dash.string, dash.end())
    rises = first is not None and last is not None and int(first.group()) < int(last.group().partition("-")[0])
    return " to " if rises else ", "


def _label(match: Match) -> str | None:
    numbers = match["numbers"]
    if not _names(match, LABEL_WORDS):
        return None
    if counts(match.string, match.end()) and (
        len(numbers) < 5 or _COUNTED.search(match.string, max(0, match.start() - 8), match.start())
    ):
        return None
    return _NUMBERS.sub(lambda number: label(number.group()), _INNER_DASH.sub(_joint, numbers))


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


def _hexadecimal(match: Match) -> str:
    return " ".join(("zero x", *(spelled(char) if char.isdigit() else char.upper() for char in match["digits"])))


def _zip(match: Match) -> str:
    return grouped(match.group().split("-"))


def _standard(match: Match) -> str:
    """Read the number of a standard, its parts and its year: IEC 60601-1-2:2014."""
    number, *parts = match["numbers"].split("-")
    words = label(number)
    if match["point"]:
        words += f" point {cardinal(match['point'])}"
    last = [match["year"]] if match["year"] else []
    return ", ".join((words, *(year(part) if len(part) == 4 else label(part) for part in parts + last)))


_STANDARD = "|".join((*STANDARDS, "ISO/IEC", "GB/T", "NIST[ ]SP"))
STANDARD = rule(
    "number of a standard",
    rf"(?<=\b(?:{_STANDARD})[ -])(?P<numbers>\d{{2,6}}(?:-\d{{1,4}}){{0,3}})(?:\.(?P<point>\d{{1,2}}))?"
    r"(?::(?P<year>(?:19|20)\d\d))?(?!\d|[.,:/-]\d)",
    _standard,
    starts=r"\d",
    when=rf"(?:{'|'.join(STANDARDS)}|/T|SP)[ -]\d\d",
)
"""Tried before dates: EN 1993-1-1."""
CONTEXT_RULES = (
    rule(
        "hexadecimal number",
        r"(?<![\w.])0[xX](?P<digits>[0-9A-Fa-f]{1,32})(?!\w|\.\d)",
        _hexadecimal,
        "xX",
        starts="0",
        near="xX",
    ),
    rule(
        "code",
        r"(?<![\w.,:/]|\d-)(?P<numbers>\d+(?:-\d+)*(?:(?:,?\s+(?:and|or)|,)\s+\d+(?:-\d+)*(?![\w]|[.,:/]\d|\s?%))*)"
        rf"(?![\w]|[.,:/]\d|{UNIT_FOLLOWS}|[ ]\d{{3}}(?!\d))",
        _code,
        starts=r"\d",
        words=(*CODE_WORDS, "post", "sort", "end", "ends", "ending", "four", "phone"),
    ),
    rule(
        "label",
        rf"(?<![\w.,:/]|\d-)(?P<numbers>{_PLAIN}(?:(?:(?:,?\s+(?:and|or|to|through)|,)\s+|\s?[-–]\s?){_PLAIN})*)"
        r"(?![ ]\d{3}(?!\d))",
        _label,
        starts=r"\d",
        words=(*LABEL_WORDS, "#", "№"),
    ),
    rule("zip code", r"(?<![\w.,-])\d{5}-\d{4}(?![\w-]|[.,]\d)", _zip, "-", starts=r"\d", when=r"\d-\d", near="-"),
)
RULES = (
    rule(
        "version",
        r"(?<![\w.])(?P<v>[vV]\.?\s?(?=\d))?(?P<numbers>\d+(?:\.\d+){2,})(?!\w|\.\d)",
        _version,
        ".",
        starts=r"vV\d",
        when=r"\d\.\d",
        near=".",
    ),
    rule(
        "version with v",
        r"(?<![\w.])(?P<v>[vV])(?P<numbers>\d+\.\d+)(?!\w|\.\d)",
        _version,
        starts="vV",
        when=r"[vV]\d",
        near="vV",
    ),
)
RESOLUTION = rule(
    "resolution",
    r"(?<![\w.,])(?P<first>\d{1,2})(?P<last>[1-9]\d)p(?!\w)",
    lambda match: f"{cardinal(match['first'])} {cardinal(match['last'])} p",
    "p",
    starts=r"\d",
)
MIXED = rule(
    "digits among letters",
    r"(?<![\p{L}\p{N}]|\d[.,])(?=\p{L}*\d)(?=\d*\p{L})[\p{L}\d]+",
    _mixed,
    when=r"\d(?:(?=[^\W\d_])|(?<=[^\W\d_]\d))",
)
