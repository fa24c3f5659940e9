"""Digits that name something: codes, rooms, flights, versions, and digits among letters."""

from __future__ import annotations

import regex

from services.encode.text.borders.words import words
from services.encode.text.reading.english.amounts import CERTAIN_UNITS, counts
from services.encode.text.reading.rule import Match, rule
from services.encode.text.reading.words import cardinal, code, grouped, in_pairs, label, plural, spelled, year

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
PRODUCTS = frozenset(("RTX", "GTX", "RX", "Xbox", "Office", "Microsoft", "Porsche"))
"""Makers and products whose numbers are read in pairs: an RTX 4090, an Xbox 360."""
STATUS_WORDS = frozenset(
    (
        "error",
        "errors",
        "page",
        "response",
        "redirect",
        "Unauthorized",
        "Forbidden",
        "Not",
        "Bad",
        "Internal",
        "Service",
    )
)
STATUSES = words("400 401 403 404 405 408 409 410 422 429 500 501 502 503 504")
"""Numbers of errors of HTTP, and the words that may follow them."""
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
_QUANTITY = regex.compile(r"(?P<number>[1-9]\d{2,3})(?P<letter>[kKMBCF])|(?P<number>[1-9]\d{2,4})(?P<letter>m)")
"""Thousands, billions, meters, degrees: 128k, 405B, 1500m, 180C. A Boeing 747B and 221B Baker Street are none."""
_STREET = regex.compile(r"\s(?:\p{Lu}\p{Ll}+\s){1,2}(?:Street|St|Road|Rd|Avenue|Ave|Lane|Drive|Boulevard|Way)\b")
_VEHICLE = regex.compile(r"\b(?:flight|train|bus)\s(?-i:[A-Z]{2}\s)?$", regex.IGNORECASE)
AIRLINES = words("AA AC AF AS AY BA CA CX CZ DL EK EY FR HA IB JL KE KL LH LX MU NH NK NZ QF QR SK SQ TK UA VS WN")
_AIRLINES = "|".join(sorted(AIRLINES))
_FLYING = regex.compile(
    r"\b(?:flights?|gate|delayed|boards|boarding|departs?|departing|arriv(?:es?|ing)|landed|terminal|ETD|nonstop|airport)\b"
)
_LEAVES = regex.compile(r"\s(?:departs|arrives|leaves|boards|lands|runs|stops|takes|returns)\b")
_RUNS = regex.compile(r"\d+|\D+")
_COUNTED = regex.compile(r"(?:orders?|cases?|units?|numbers?|parts?|items?|line|lot|batch)\s*$", regex.IGNORECASE)
COUNTED_WORDS = frozenset(
    {"policies", "boxes", "buses"} | {f"{word}s" for word in LABEL_WORDS - {"no"} if f"{word}s" in LABEL_WORDS}
)
"""Words whose plural names numbers (rooms 101 and 102), but counts a number after a colon (Rooms: 101)."""
_THINGS_COUNTED = regex.compile(rf"\b(?:{'|'.join(sorted(COUNTED_WORDS))}):\s*$", regex.IGNORECASE)
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
    """Read the dash of seats 21-23 as `to`, those of a Boeing 747-400 and of order 112-345-678 not."""
    first, last = _LAST_NUMBER.search(dash.string, 0, dash.start()), _DIGITS.match(dash.string, dash.end())
    if first is None or last is None or "-" in last.group() or first.string[: first.start()].endswith("-"):
        return ", "
    return " to " if int(first.group()) < int(last.group()) else ", "


def _label(match: Match) -> str | None:
    numbers = match["numbers"]
    if not _names(match, LABEL_WORDS) or (
        numbers.isdigit() and _THINGS_COUNTED.search(match.string, max(0, match.start() - 30), match.start())
    ):
        return None
    if (
        counts(match.string, match.end())
        and not (
            _LEAVES.match(match.string, match.end())
            and _VEHICLE.search(match.string, max(0, match.start() - 16), match.start())
        )
        and (len(numbers) < 5 or _COUNTED.search(match.string, max(0, match.start() - 8), match.start()))
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


def _is_a_name(match: Match) -> bool:
    text, start = match.string, match.start()
    street = _STREET.match(text, match.end()) is not None
    return street or text[start - 1 : start] == "-" or _names(match, LABEL_WORDS)


def _mixed(match: Match) -> str:
    quantity = _QUANTITY.fullmatch(match.group())
    if quantity is not None and not _is_a_name(match):
        return f"{cardinal(quantity['number'])} {quantity['letter']}"
    runs = _RUNS.findall(match.group())
    if len(runs) == 2 and runs[1] == "s":  # B-52s, 747s
        return plural(code(runs[0]))
    if len(runs) == 2 and runs[1] == "ers":  # 49ers
        return f"{code(runs[0]).removesuffix('e')}ers"
    return " ".join(code(run) if run.isdigit() else run for run in runs)


def _hexadecimal(match: Match) -> str:
    return " ".join(("zero x", *(spelled(char) if char.isdigit() else char.upper() for char in match["digits"])))


def _provision(match: Match) -> str:
    more = f" {cardinal(match['more'])}" if match["more"] else ""
    return f"{spelled(match['number'])} {match['letter']}{match['many'] or more}"


def _product(match: Match) -> str | None:
    return None if counts(match.string, match.end()) else in_pairs(match["number"])


def _status(match: Match) -> str | None:
    number, word = match["number"], match["word"]
    if word in ("errors", "page") and number.endswith("00"):  # 500 errors, a 500 page book
        return None
    return spelled(number) if number in STATUSES else None


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
VULNERABILITY = rule(
    "vulnerability",
    r"(?<=\bCVE)-(?P<year>\d{4})-(?P<number>\d{4,7})(?![\w-])",
    lambda match: f" {year(match['year'])}, {spelled(match['number'])}",
    "-",
    when="CVE-",
)
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
        "code in groups",
        r"(?<![\w.,:/-]|\d[ ])(?P<numbers>\d{2}(?:[ ]\d\d){1,3}|\d{3}(?:[ ]\d{3}){1,2}|\d{4}[ ]\d{4})"
        rf"(?![\w]|[.,:/-]\d|{UNIT_FOLLOWS}|[ ]\d)",
        lambda match: grouped(match["numbers"].split(" ")) if _names(match, CODE_WORDS) else None,
        starts=r"\d",
        words=CODE_WORDS,
        when=r"\d \d",
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
        "flight of an airline",
        rf"(?<=(?<![\w-])(?:{_AIRLINES})[ ])(?P<number>\d{{3,4}})(?![\w-]|[.,:/]\d|{UNIT_FOLLOWS})",
        lambda match: spelled(match["number"]) if _FLYING.search(match.string) else None,
        starts=r"\d",
        when=rf"\b(?:{_AIRLINES}) \d",
    ),
    rule(
        "label",
        rf"(?<![\w.,:/]|\d-)(?P<numbers>{_PLAIN}(?:(?:(?:,?\s+(?:and|or|to|through)|,)\s+|\s?[-–]\s?){_PLAIN})*)"
        r"(?![ ]\d{3}(?!\d))",
        _label,
        starts=r"\d",
        words=(*LABEL_WORDS, "#", "№", "rm", "ste", "rt", "rte"),
    ),
    rule(
        "standard of a network",
        r"(?<![\w.,$€£¥-])802\.(?P<point>11|(?:1|3|15)(?=[a-zA-Z]))(?P<letter>[a-zA-Z]{1,3})?(?![\w]|\.\d)",
        lambda match: f"eight zero two point {cardinal(match['point'])} {match['letter'] or ''}".rstrip(),
        ".",
        when=r"802\.",
    ),
    rule(
        "plan and its paragraph",
        r"(?<![\w.,$€£-])(?P<number>[1-9]\d\d)\((?P<letter>[a-hk])\)(?:\((?P<more>\d{1,2})\)|(?P<many>s))?(?![\w(])",
        _provision,
        "(",
        starts=r"\d",
        near="(",
    ),
    rule(
        "plan",
        r"(?<![\w.,$€£-])(?P<number>401(?=[kK])|403(?=[bB])|457(?=[bB]))(?P<letter>[kKbB]s?)(?!\w)",
        lambda match: f"{spelled(match['number'])} {match['letter']}",
        "kKbB",
        starts="4",
        when=r"4(?:01|03|57)[kKbB]",
    ),
    rule(
        "episode",
        r"(?<!\w)[sS](?P<season>\d{1,2})\s?[eE](?P<episode>\d{1,3})(?!\w)",
        lambda match: f"season {cardinal(str(int(match['season'])))}, episode {cardinal(str(int(match['episode'])))}",
        "eE",
        starts="sS",
        when=r"[sS]\d{1,2} ?[eE]\d",
    ),
    rule(
        "product",
        rf"(?<=\b(?:{'|'.join(sorted(PRODUCTS))})[ ])(?P<number>[1-9]\d{{2,3}})(?![\w-]|[.,:/]\d|{UNIT_FOLLOWS})",
        _product,
        starts=r"\d",
        words=map(str.lower, PRODUCTS),
    ),
    rule(
        "car or road",
        r"(?<=(?<![\w-])(?:F|E|I|US|SR)-)(?P<number>[1-9]\d\d)(?![\w-]|[.,]\d)",
        _product,
        "-",
        starts=r"\d",
        when=r"[FEISR]-\d\d\d",
        near="-",
    ),
    rule(
        "status",
        rf"(?<![\w.,$€£/-])(?P<number>[45]\d\d)(?=\s(?P<word>{'|'.join(sorted(STATUS_WORDS))})\b)",
        _status,
        starts="45",
        words=("found", *map(str.lower, STATUS_WORDS - {"Not"})),
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
