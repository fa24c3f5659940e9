"""Numbers with units, percentages, degrees, sizes."""

from __future__ import annotations

import regex

from services.encode.text.reading.english.amounts import DASH, END, SIGN, THINGS, UNITS, amount, number, sign_words
from services.encode.text.reading.english.fractions import FRACTION, PRESSURE, fraction_words
from services.encode.text.reading.english.money import is_about_interest
from services.encode.text.reading.rule import NUMERIC, Match, rule
from services.encode.text.reading.words import cardinal, plural

_LENGTHS = ("km", "m", "cm", "mm", "µm", "μm", "nm", "mi", "ft", "yd")
_NAMES = "|".join(sorted((regex.escape(unit) for unit in UNITS if unit != "m"), key=len, reverse=True))
_LENGTH_NAMES = "|".join(sorted(_LENGTHS, key=len, reverse=True))
_POWERS = {"²": "square", "2": "square", "^2": "square", "³": "cubic", "3": "cubic", "^3": "cubic"}
_UNIT = rf"""(?:(?P<area>sq|cu|fl)\.?\s(?P<of>ft|mi|km|m|in|yd|oz)\b
    |(?P<length>{_LENGTH_NAMES})(?P<power>\^?[23](?!\d)|[²³])
    |(?P<unit>{_NAMES}|(?<=\s)m))"""
_PER = rf"""(?:\s?/\s?(?P<per>{_NAMES}|m|day|d|hour|minute|second|week|month|year|person|user|page|serving|tablet)
    (?P<per_power>[²³]|\^?[23](?!\d))?(?:/(?P<each>day|dose|hour|hr|h|minute|min|week|1\.73\s?m²))?(?![\w/]))?"""
_STOP = r"(?:(?<=(?:lbs?|oz|pts|tsp|[tT]bsp|qt|gal|(?:sq|cu)\.?\sin|ft|yd|mi|mins?|secs?|hrs?|wks?|yrs?|mos?))\."
_STOP += r"(?=,|\)|\s[a-z(]|\s[NSEW]{1,2}\b|\s\d+(?:\.\d)?\s(?:oz|in)\b))?"
"""The full stop of an abbreviated unit inside a sentence."""
_ONE_INCH = regex.compile(r"(?<![\d.,/-])(?<!\d\s)(?:1|\d{1,2}/\d{1,2})\s?$")
_AREAS = {"sq": "square", "cu": "cubic", "fl": "fluid"}
_DEGREES = {"C": " Celsius", "F": " Fahrenheit", "K": " Kelvin", None: ""}
_SIGNED = regex.compile(r"\d\s[-−](?=[\d.])")
_WAYS = {"N": " north", "S": " south", "E": " east", "W": " west", None: ""}
_BOUND = r"(?<![\w.,$€£¥]|\d[.,/])"
_RUN = r"(?=[-−–—+±~≈\d.,'’ \u00a0\u202f\u2009]++"
"""A lookahead, still open: numbers and what is between them, then a unit. It spares most numbers the whole pattern."""
_RANGE = rf"(?:{number('low', comma=True)}{DASH})?{number('high', comma=True)}{END}"


def _value(match: Match) -> tuple[str, bool]:
    """Return the words of a number or a range, and whether it is one."""
    words = sign_words(match["sign"])
    low, high = match["low"], amount(match["high"])
    if low:  # FTSE 100 -0.3% is no range
        signed = _SIGNED.search(match.group()) is not None and float(amount(low).digits) > float(high.digits)
        words += f"{amount(low).words()} {'minus' if signed else 'to'} "
    return words + high.words(), high.is_one and not low


def _unit_name(match: Match, one: bool) -> str | None:
    if match["area"]:
        power = _AREAS[match["area"]]
        single, many = ("inch", "inches") if match["of"] == "in" else UNITS[match["of"]]
        return f"{power} {single if one else many}"
    if match["length"]:
        return f"{_POWERS[match['power']]} {UNITS[match['length']][0 if one else 1]}"
    return UNITS[match["unit"]][0 if one else 1]


def _per(match: Match) -> str:
    per = match["per"]
    if not per:
        return ""
    name = UNITS[per][0] if per in UNITS else "day" if per == "d" else per
    power = match["per_power"]
    if power and per == "s":
        return f" per {name} {'squared' if '2' in power or '²' in power else 'cubed'}"
    each = match["each"]
    surface = each is not None and each[0] == "1"
    more = f" per {'1.73 square meters' if surface else UNITS[each][0] if each in UNITS else each}" if each else ""
    return f" per {_POWERS[power] + ' ' if power else ''}{name}{more}"


def _measure(match: Match) -> str | None:
    words, one = _value(match)
    glued = match["blank"] == ""
    if match["unit"] == "s" and glued and _is_no_second(match):
        return None
    if match["unit"] == "W" and (
        _WEST.match(match.string, match.end()) is not None
        or _ROAD.search(match.string, max(0, match.start() - 12), match.start()) is not None
    ):
        return None
    if match["unit"] in ("bp", "bps") and is_about_interest(match.string):
        return f"{words} basis point{'' if one else 's'}"
    if match["unit"] == "bp":
        return None
    name = _unit_name(match, one)
    return f"{words}{' plus' if match['more'] else ''} {name}{_per(match)}"


_WEST = regex.compile(r"\.?\s(?:[a-z-]+(?:st|nd|rd|th)|\p{Lu}\p{Ll}+)\s(?:Street|Avenue|Boulevard|Road|Drive|Lane)\b")
"""What follows the W of an address: 350 W 42nd Street."""
_ROAD = regex.compile(r"\b(?:(?:Route|Rte?|Highway|Hwy|Interstate|Exit|route)\.?[ -]|(?:I|[A-Z]{2})-)$")


def _is_no_second(match: Match) -> bool:
    """Return whether `s` is the end of a plural: the 80s, B-52s, 747s."""
    text, start, digits = match.string, match.start(), match["high"]
    plural = text[start - 1 : start] == "-" or text[max(0, start - 4) : start].lower() in ("the ", "his ", "her ")
    return plural or (digits.isdigit() and len(digits) > 2 and digits[-1] not in "05")


def _square(match: Match) -> str:
    return f"{_POWERS[match['power']]} {UNITS[match['length']][1]}"


def _compound(match: Match) -> str:
    unit = match["unit"]
    return f"{amount(match['high']).words()}-{'inch' if unit == 'in' else UNITS[unit][0]}"


def _fraction(match: Match) -> str:
    mixed = match["whole"] is not None
    return f"{fraction_words(match)} {_unit_name(match, not mixed)}{_per(match)}"


def _capacity(match: Match) -> str | None:
    """Read 3.2/16 GB as a part of a whole; 1/2 GB is a fraction."""
    small = match["over"].isdigit() and match["under"] in ("2", "3", "4", "5", "8")
    if small or float(match["over"]) > float(match["under"]):
        return None
    return f"{amount(match['over']).words()} out of "


def _inch(match: Match) -> str:
    single = _ONE_INCH.search(match.string, max(0, match.start() - 12), match.start()) is not None
    return "inch" if single else "inches"


def _degrees(match: Match) -> str:
    words, one = _value(match)
    return f"{words} degree{'' if one else 's'}{_DEGREES[match['scale']]}{_WAYS[match['way']]}"


def _percent(match: Match) -> str:
    words, _ = _value(match)
    return f"{words} {'per mille' if match['mark'] == '‰' else 'percent'}"


def _percent_of_both(match: Match) -> str:
    return f"{sign_words(match['sign'])}{amount(match['low']).words()} to {amount(match['high']).words()} percent"


def _duration(match: Match) -> str:
    parts = []
    for name in ("hour", "minute", "second"):
        digits = match[name]
        if digits:
            parts.append(f"{cardinal(digits)} {name}{'' if digits == '1' else 's'}")
    return " ".join(parts)


_OPENED = regex.compile(r'(?<![^\s(\[—–-])"')
_CLOSED = regex.compile(r'(?<=[^\s\d(\[—–-])"')
_MEASURED = regex.compile(r"\s?(?:wide|long|tall|high|deep|thick|by|x|×)\b|[ -](?:diagonal|diameter)")
_THING = regex.compile(
    r"[ -](?:[48]K\b|"
    r"(?!(?:he|she|it|they|we|i|you|who|said|says|asked|and|or|but|so|is|was|are|were|to|at|in|on|of|from|for|with|"
    r"that|which|as|because|if|when|while|the|an?|his|her|my|your|our|their|then|not)\b)[a-z])",
    regex.IGNORECASE,
)
_INCH_MARKS = regex.compile(r"\d[\"”″]")
_SIZED = regex.compile(
    r"\d[-–]$|\b(?:waist|inseam|chest|hips|height|width|depth|length|diameter|screen|display|TV|monitor|snow|rain)"
    r"(?:\s(?:is|of|about))?:?\s$",
    regex.IGNORECASE,
)
_FACTOR = regex.compile(r"(?:[x×]|\bby)\s?$")


def quotation_is_open(text: str, end: int, mark: str) -> bool:
    """Return whether `mark` at `end` may close a quotation that began before."""
    if mark == "”":
        return text.count("“", 0, end) > text.count("”", 0, end)
    return mark == '"' and len(_OPENED.findall(text, 0, end)) > len(_CLOSED.findall(text, 0, end))


def _inches(match: Match) -> str | None:
    """Read 10" as inches, unless the mark may close a quotation."""
    text, end, value = match.string, match.end(), match["value"]
    if quotation_is_open(text, match.start(), match["mark"]):
        return None
    noun = _THING.match(text, end) is not None and _MEASURED.match(text, end) is None
    measured = "." in value or _SIZED.search(text, max(0, match.start() - 24), match.start()) is not None
    certain = noun or measured or "/" in value or match["mark"] == "″" or len(_INCH_MARKS.findall(text)) > 1
    if not (certain or _MEASURED.match(text, end) or _FACTOR.search(text, max(0, match.start() - 4), match.start())):
        return None
    single = value == "1" or noun or ("/" in value and not regex.search(r"[ -]", value))
    return f"{value} inch{'' if single else 'es'}"


def _sides(match: Match) -> str:
    one, many = ("inch", "inches") if match["mark"] in '"”″' else ("foot", "feet")
    return f"{match['first']} by {match['second']} {many if match['noun'] is None else one}"


def _feet(match: Match) -> str:
    feet, inches = match["feet"], match["inches"]
    single = feet == "1" or (not inches and "noun" in match.groupdict() and match["noun"] is not None)
    words = f"{cardinal(feet)} {'foot' if single else 'feet'}"
    return f"{words} {cardinal(inches)} inch{'' if inches == '1' else 'es'}" if inches else words


def _place(match: Match) -> str:
    words = f"{cardinal(match['degrees'])} degrees {cardinal(match['minutes'])} minutes"
    if match["seconds"]:
        words += f" {amount(match['seconds']).words()} seconds"
    return words + _WAYS[match["way"]]


def _size(match: Match) -> str:
    sides = [amount(match[name]).words() for name in ("first", "second", "third") if match[name]]
    words = " by ".join(sides)
    if match["many"]:  # 2x4s
        return f"{sides[0]} by {plural(cardinal(match['second']))}"
    unit = match["unit"]
    return f"{words} {'inches' if unit.startswith('in') else UNITS[unit][1]}" if unit else words


_HEIGHTS = (
    "ceilings?|walls?|doors?|fences?|gates?|tables?|ladders?|boards?|shelf|shelves|sheets?|trees?|cables?|cords?|ropes?|"
    "poles?|drops?|waves?|section|sections|trailers?|couch|sofa|bed"
)
_COUNTED = (
    "people|users|followers|views|subscribers|customers|downloads|jobs|tokens|parameters|homes|households|voters|viewers|"
    "visitors|tonnes|barrels|copies"
)
_SCALES = {"k": "thousand", "m": "million", "b": "billion", "bn": "billion", "tn": "trillion"}
RULES = (
    rule(
        "thousands of things",
        rf"""{_BOUND}(?:{number("low")}[-–])?{number("high")}(?:(?P<scale>[KkMB])(?P<more>\+)?(?=\s(?:[a-z]+\s)?(?:{THINGS})\b)
        |(?P<scale>m)(?P<more>\+)?(?=\s(?:{_COUNTED})\b)
        |(?P<scale>[ ]?(?:bn|tn))(?P<more>\+)?(?!\w))""",
        lambda match: (
            " to ".join(amount(match[side]).words() for side in ("low", "high") if match[side])
            + f" {_SCALES[match['scale'].strip().lower()]}{' plus' if match['more'] else ''}"
        ),
        "KkMBnm",
        starts=NUMERIC,
        near="KkMBbtm",
        when=r"\d(?:[KkMBm]|[ ]?[bt]n)",
    ),
    rule(
        "inches by inches",
        r"""(?<![\w.,'’′/"])(?P<first>\d+(?:\.\d+)?)(?P<mark>["”″'’′])[xX×](?P<second>\d+(?:\.\d+)?)(?P=mark)(?!\w)"""
        r"(?P<noun>(?=[ ]\p{L}))?",
        _sides,
        "\"”″'’′",
        starts=r"\d",
        near="\"”″'’′.",
    ),
    rule(
        "inches",
        r"""(?<![\w.,'’′/]|\d['′’]\s)(?P<value>\d+(?:\.\d+)?(?:[ -]\d+/\d+|/\d+)?)(?P<mark>["”″])(?!\w)""",
        _inches,
        '"”″',
        starts=r"\d",
        near='"”″/.',
    ),
    rule(
        "feet before a dimension",
        rf"(?<![\w.,'’′])(?P<feet>\d{{1,3}})['’′](?P<inches>(?!))?(?P<noun>(?=\s(?:{_HEIGHTS})\b))?"
        r"(?:(?<=[x×]\s\d{1,3}.|\bby\s\d{1,3}.)(?!\w)|(?=\s(?:tall|wide|long|high|deep|thick|by|x|×)\b)|(?(noun)|(?!)))",
        _feet,
        "'’′",
        starts=r"\d",
        near="'’′",
    ),
    rule(
        "feet and inches without a mark",
        r"(?<![\w.,'’])(?P<feet>[3-8])(?:['’′]|ft)(?P<inches>1[01]|\d)(?![\w'’′\"”″])",
        _feet,
        "'’′f",
        starts="3-8",
        near="'’′f",
    ),
    rule(
        "times a measure",
        rf"(?<![\w.,])(?P<count>[1-9]\d?)\s?[x×]\s?(?=(?!(?:[23468]|1[02])s\b)[1-9]\d*(?:\.\d+)?\s?(?:{_NAMES})(?![\w/]))",
        lambda match: f"{match['count']} by ",
        "x×",
        starts=r"\d",
        when=r"\d\s?[x×]\s?\d",
        near="x× ",
    ),
    rule(
        "size",
        rf"""(?<![\w.,])(?P<first>(?!0\d)\d+(?:\.\d+)?)(?:(?P<x>[xX×])|[ ][xX][ ])(?P<second>(?!0\d)\d+(?:\.\d+)?)
        (?P<many>(?<=(?<!\d)(?:2x(?:[23468]|1[02])|4x4|6x6))s)?
        (?:(?:[xX×]|[ ][xX][ ])(?P<third>\d+(?:\.\d+)?))?
        (?:\s?(?P<unit>{_LENGTH_NAMES}|px|(?(third)in(?:\.(?=[,;)])|(?=\.?(?:$|[,;)])))|(?!)))(?![\w]))?
        (?![\w]|\.\d|\s?=)""",
        _size,
        "xX×",
        starts=r"\d",
        when=r"\d\s?[xX×]\s?\d",
        near="xX×",
    ),
    rule(
        "feet and inches",
        r"""(?<![\w.,])(?P<feet>\d{1,3})(?:(?<!\d\d)['′’]\s?(?P<inches>\d{1,2})(?:["”″]|'')|\s?ft\.?\s(?P<inches>\d{1,2})\s?in\b\.?)""",
        _feet,
        "'′’f",
        starts=r"\d",
        when=r"\d['′’]\s?\d|\dft|\d\sft",
        near="'′’f",
    ),
    rule(
        "inches with a stop",
        r"(?<=(?P<value>\d[\d./-]{0,7})\s?)in(?:\.(?=,|\)|\s[a-z(])|(?=/(?:hr|hour|day|yr|h)\b)|(?<=\d(?:[-–]|\.|/)\d{1,3}\s?in)(?=\.?$))",
        _inch,
        "i",
        near="i",
        when=r"\d\s?in(?:[./]|$)",
    ),
    rule(
        "place",
        r"""(?<![\w.,])(?P<degrees>\d{1,3})°\s?(?P<minutes>\d{1,2})['′’]\s?(?:(?P<seconds>\d{1,2}(?:\.\d+)?)(?:["″”]|''))?(?:\s?(?P<way>[NSEW])(?!\w))?""",
        _place,
        "°",
        starts=r"\d",
        near="°",
    ),
    rule(
        "duration",
        r"""(?<![\w.,])(?:(?P<hour>\d+)\s?h\s?(?P<minute>\d+)\s?(?:m|min)?(?:\s?(?P<second>\d+)\s?s)?|(?P<minute>\d+)\s?m\s?(?P<second>\d+)\s?s)(?!\w)""",
        _duration,
        "hm",
        starts=r"\d",
        when=r"\d\s?[hm]\s?\d",
    ),
    rule(
        "percent of both",
        rf"""(?P<sign>{SIGN})?{_BOUND}{number("low", comma=True)}\s?%{DASH}{number("high", comma=True)}{END}\s?%""",
        _percent_of_both,
        "%",
        starts=NUMERIC,
        when=r"%\s?[-–—−]",
        near="%",
    ),
    rule(
        "percent",
        rf"""{_RUN}[%‰])(?P<sign>{SIGN})?{_BOUND}{_RANGE}\s?(?P<mark>[%‰])""",
        _percent,
        "%‰",
        starts=NUMERIC,
        near="%‰",
    ),
    rule(
        "degrees",
        rf"""{_RUN}[°º˚])(?P<sign>{SIGN})?{_BOUND}(?:{number("low", comma=True)}(?:[°º˚][CF]?)?{DASH})?
        {number("high", comma=True)}{END}\s?[°º˚](?:\s?(?:(?P<scale>[CFK])|(?P<way>[NSEW]))(?!\w))?""",
        _degrees,
        "°º˚",
        starts=NUMERIC,
        near="°º˚",
    ),
    PRESSURE,
    rule(
        "part of a capacity",
        r"(?<![\w.,/$€£])(?P<over>\d{1,6}(?:\.\d{1,3})?)\s?/\s?(?=(?P<under>\d{1,6}(?:\.\d{1,3})?)\s?(?:[KMGTP]i?B|kB)(?![\w/]))",
        _capacity,
        "/",
        starts=r"\d",
        when=r"\d\s?/\s?\d",
    ),
    rule(
        "fraction with a unit",
        rf"""(?<![\w.,/]){FRACTION}\s?{_UNIT}(?![\w²³]){_PER}{_STOP}""",
        _fraction,
        "/",
        starts=r"\d",
        when=r"\d/\d",
        near="/",
    ),
    rule(
        "compound with a unit",
        rf"""{_BOUND}(?P<high>\d{{1,15}}(?:\.\d{{1,4}})?)-(?P<unit>(?!(?:s|h|g|l|L|m|V|W)\b)(?:{_NAMES})|in(?=\.?\s(?!a\s)\p{{L}}|\.?\)))
        (?:\.(?=\s\p{{L}}|\)))?(?=\.?\s\p{{L}}|[),]|-(?:old|long|tall|wide|high|deep|thick)\b)""",
        _compound,
        "-",
        starts=r"\d",
        when=r"\d-[A-Za-z]",
        near="-",
    ),
    rule(
        "number with a unit",
        rf"""{_RUN}(?:{_NAMES}|m|sq|cu|fl)(?![A-Za-z]))
        (?P<sign>{SIGN})?{_BOUND}{_RANGE}(?P<more>\+(?=[ ]))?
        (?P<blank>[ \u00a0\u202f\u2009]?){_UNIT}(?![\w²³'’]|-\d){_PER}{_STOP}""",
        _measure,
        starts=NUMERIC,
        when=rf"\d\+?[ \u00a0\u202f\u2009]?(?:{_NAMES}|m|sq|cu|fl)(?![A-Za-z])",
    ),
)
SQUARE = rule(
    "area or volume",
    rf"(?<![\w]|\d\s|\d\s?[A-Za-zµμ]{{1,4}}/)(?P<length>{_LENGTH_NAMES})(?P<power>[²³])(?!\w)",
    _square,
    "²³",
)
