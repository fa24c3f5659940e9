"""Numbers with units, percentages, degrees, sizes."""

from __future__ import annotations

import regex

from services.encode.text.reading.english.amounts import DASH, END, SIGN, amount, number, sign_words
from services.encode.text.reading.english.fractions import FRACTION, PRESSURE, fraction_words
from services.encode.text.reading.rule import NUMERIC, Match, rule
from services.encode.text.reading.words import cardinal

_TABLE = """
km kilometer|m meter|cm centimeter|mm millimeter|µm micrometer|μm micrometer|nm nanometer|mi mile|ft foot feet|yd yard
kg kilogram|g gram|mg milligram|µg microgram|μg microgram|mcg microgram|lb pound|lbs pound|oz ounce
L liter|l liter|ml milliliter|mL milliliter|cl centiliter|cL centiliter|dl deciliter|dL deciliter|gal gallon
µL microliter|μL microliter|tsp teaspoon|tbsp tablespoon|Tbsp tablespoon|qt quart|ha hectare
KB kilobyte|kB kilobyte|MB megabyte|GB gigabyte|TB terabyte|PB petabyte|KiB kibibyte|MiB mebibyte|GiB gibibyte
TiB tebibyte|kbit kilobit|Mbit megabit|Gbit gigabit|Mb megabit|Gb gigabit
Hz hertz hertz|kHz kilohertz kilohertz|MHz megahertz megahertz|GHz gigahertz gigahertz|THz terahertz terahertz
W watt|kW kilowatt|MW megawatt|GW gigawatt|mW milliwatt|Wh watt_hour|kWh kilowatt_hour|MWh megawatt_hour
GWh gigawatt_hour|TWh terawatt_hour|V volt|kV kilovolt|mV millivolt|mA milliamp|kA kiloamp|mAh milliamp_hour|Ah amp_hour
kJ kilojoule|MJ megajoule|kcal kilocalorie|cal calorie|kPa kilopascal|hPa hectopascal|MPa megapascal|Pa pascal
psi pound_per_square_inch pounds_per_square_inch|dB decibel|Ω ohm|kΩ kiloohm|MΩ megaohm|px pixel|MP megapixel
s second|sec second|secs second|ms millisecond|µs microsecond|μs microsecond|ns nanosecond|min minute|mins minute|h hour
hr hour|hrs hour|wk week|wks week|yr year|yrs year|mo month|mos month
kph kilometer_per_hour kilometers_per_hour|kmh kilometer_per_hour kilometers_per_hour
mph mile_per_hour miles_per_hour
kbps kilobit_per_second kilobits_per_second
Kbps kilobit_per_second kilobits_per_second
Mbps megabit_per_second megabits_per_second
Gbps gigabit_per_second gigabits_per_second|bps bit_per_second bits_per_second
rpm revolution_per_minute revolutions_per_minute|bpm beat_per_minute beats_per_minute
mmHg millimeter_of_mercury millimeters_of_mercury
mmol millimole|µmol micromole|μmol micromole|nmol nanomole|mEq milliequivalent|IU international_unit
fps frame_per_second frames_per_second|ppm part_per_million parts_per_million|ppb part_per_billion parts_per_billion
dpi dot_per_inch dots_per_inch|mpg mile_per_gallon miles_per_gallon
"""
UNITS: dict[str, tuple[str, str]] = {}
for _entry in _TABLE.replace("|", "\n").split("\n"):
    if _entry:
        _short, _one, *_more = (part.replace("_", " ") for part in _entry.split())
        UNITS[_short] = (_one, _more[0] if _more else f"{_one}s")

CERTAIN_UNITS = ("km", "cm", "mm", "kg", "mg", "ml", "MB", "GB", "TB", "KB", "kW", "kWh", "MHz", "GHz", "mph")
"""Units that are nothing else after a number, whatever precedes it."""
_LENGTHS = ("km", "m", "cm", "mm", "µm", "μm", "nm", "mi", "ft", "yd")
_NAMES = "|".join(sorted((regex.escape(unit) for unit in UNITS if unit != "m"), key=len, reverse=True))
_LENGTH_NAMES = "|".join(sorted(_LENGTHS, key=len, reverse=True))
_POWERS = {"²": "square", "2": "square", "^2": "square", "³": "cubic", "3": "cubic", "^3": "cubic"}
_UNIT = rf"""(?:(?P<area>sq|cu)\.?\s(?P<of>ft|mi|km|m|in|yd)\b\.?
    |(?P<length>{_LENGTH_NAMES})(?P<power>\^?[23](?!\d)|[²³])
    |(?P<unit>{_NAMES}|(?<=\s)m))"""
_PER = rf"""(?:\s?/\s?(?P<per>{_NAMES}|m|day|d|hour|minute|second|week|month|year|person|user|page)
    (?P<per_power>[²³]|\^?[23](?!\d))?(?:/(?P<each>day|dose|hour|hr|h|minute|min|week))?(?![\w/]))?"""
_STOP = r"(?:(?<=(?:lbs?|oz|tsp|[tT]bsp|qt|gal|ft|yd|mi|mins?|secs?|hrs?|wks?|yrs?|mos?))\."
_STOP += r"(?=,|\)|\s[a-z(]|\s\d+(?:\.\d)?\s(?:oz|in)\b))?"
"""The full stop of an abbreviated unit inside a sentence."""
_OTHER_PER = {"d": "day"}
_DEGREES = {"C": " Celsius", "F": " Fahrenheit", "K": " Kelvin", None: ""}
_BOUND = r"(?<![\w.,$€£¥]|\d[.,])"
_RUN = r"(?=[-−–—+±~≈\d.,'’ \u00a0\u202f\u2009]++"
"""A lookahead, still open: numbers and what is between them, then a unit. It spares most numbers the whole pattern."""
_RANGE = rf"(?:{number('low', comma=True)}{DASH})?{number('high', comma=True)}{END}"


def _value(match: Match) -> tuple[str, bool]:
    """Return the words of a number or a range, and whether it is one."""
    words = sign_words(match["sign"])
    low, high = match["low"], amount(match["high"])
    if low:
        words += f"{amount(low).words()} to "
    return words + high.words(), high.is_one and not low


def _unit_name(match: Match, one: bool) -> str | None:
    if match["area"]:
        power = "square" if match["area"] == "sq" else "cubic"
        single, many = ("inch", "inches") if match["of"] == "in" else UNITS[match["of"]]
        return f"{power} {single if one else many}"
    if match["length"]:
        return f"{_POWERS[match['power']]} {UNITS[match['length']][0 if one else 1]}"
    return UNITS[match["unit"]][0 if one else 1]


def _per(match: Match) -> str:
    per = match["per"]
    if not per:
        return ""
    name = UNITS[per][0] if per in UNITS else _OTHER_PER.get(per, per)
    power = match["per_power"]
    if power and per == "s":
        return f" per {name} {'squared' if '2' in power or '²' in power else 'cubed'}"
    each = match["each"]
    more = f" per {UNITS[each][0] if each in UNITS else each}" if each else ""
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
    if match["unit"] == "bps" and _INTEREST.search(match.string) and not _BITS.search(match.string):
        return f"{words} basis point{'' if one else 's'}"
    name = _unit_name(match, one)
    return f"{words} {name}{_per(match)}"


_WEST = regex.compile(r"\.?\s(?:[a-z-]+(?:st|nd|rd|th)|\p{Lu}\p{Ll}+)\s(?:Street|Avenue|Boulevard|Road|Drive|Lane)\b")
"""What follows the W of an address: 350 W 42nd Street."""
_ROAD = regex.compile(r"\b(?:(?:Route|Rte?|Highway|Hwy|Interstate|Exit|route)\.?[ -]|(?:I|US|SR)-)$")
_INTEREST = regex.compile(r"%|\b(?:rates|interest|yields?|spreads?|Fed|ECB|hikes?)\b")
_BITS = regex.compile(r"\b(?:data|bit|baud|modem|serial|link|network)\b")
"""Words of a sentence in which bps are hundredths of a percent, and bits."""


def _is_no_second(match: Match) -> bool:
    """Return whether `s` is the end of a plural: the 80s, B-52s, 747s."""
    text, start, digits = match.string, match.start(), match["high"]
    plural = text[start - 1 : start] == "-" or text[max(0, start - 4) : start].lower() in ("the ", "his ", "her ")
    return plural or (digits.isdigit() and len(digits) > 2 and digits[-1] not in "05")


def _square(match: Match) -> str:
    return f"{_POWERS[match['power']]} {UNITS[match['length']][1]}"


def _compound(match: Match) -> str:
    return f"{cardinal(match['high'])}-{UNITS[match['unit']][0]}"


def _fraction(match: Match) -> str:
    mixed = match["whole"] is not None
    return f"{fraction_words(match)} {_unit_name(match, not mixed)}{_per(match)}"


def _degrees(match: Match) -> str:
    words, one = _value(match)
    return f"{words} degree{'' if one else 's'}{_DEGREES[match['scale']]}"


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
    certain = noun or "/" in value or match["mark"] == "″" or len(_INCH_MARKS.findall(text)) > 1
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
    return words


def _size(match: Match) -> str:
    sides = [amount(match[name]).words() for name in ("first", "second", "third") if match[name]]
    words = " by ".join(sides)
    return f"{words} {UNITS[match['unit']][1]}" if match["unit"] else words


_HEIGHTS = (
    "ceilings?|walls?|doors?|fences?|gates?|tables?|ladders?|boards?|shelf|shelves|sheets?|trees?|cables?|cords?|ropes?|"
    "poles?|drops?|waves?|section|sections|trailers?|couch|sofa|bed"
)
_THINGS = (
    "followers|views|users|subscribers|people|likes|downloads|customers|members|visitors|readers|viewers|fans|copies|"
    "employees|jobs|requests|tokens|parameters|samples|steps|shares|streams|plays|records|rows|words|stars|miles"
)
_SCALES = {"k": "thousand", "m": "million", "b": "billion", "bn": "billion", "tn": "trillion"}
RULES = (
    rule(
        "thousands of things",
        rf"""{_BOUND}(?:{number("low")}[-–])?{number("high")}(?:(?P<scale>[KkMB])(?P<more>\+)?(?=\s(?:[a-z]+\s)?(?:{_THINGS})\b)
        |(?P<scale>[ ]?(?:bn|tn))(?P<more>\+)?(?!\w))""",
        lambda match: (
            " to ".join(amount(match[side]).words() for side in ("low", "high") if match[side])
            + f" {_SCALES[match['scale'].strip().lower()]}{' plus' if match['more'] else ''}"
        ),
        "KkMBn",
        starts=NUMERIC,
        near="KkMBbt",
        when=r"\d(?:[KkMB]|[ ]?[bt]n)",
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
        r"""(?<![\w.,'’′/]|\d['′]\s)(?P<value>\d+(?:\.\d+)?(?:[ -]\d+/\d+|/\d+)?)(?P<mark>["”″])(?!\w)""",
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
        "size",
        rf"""(?<![\w.,])(?P<first>(?!0\d)\d+(?:\.\d+)?)(?:(?P<x>[xX×])|[ ][xX][ ])(?P<second>(?!0\d)\d+(?:\.\d+)?)
        (?:(?:[xX×]|[ ][xX][ ])(?P<third>\d+(?:\.\d+)?))?(?:\s?(?P<unit>{_LENGTH_NAMES}|px)(?![\w]))?
        (?![\w]|\.\d|\s?=)""",
        _size,
        "xX×",
        starts=r"\d",
        when=r"\d\s?[xX×]\s?\d",
        near="xX×",
    ),
    rule(
        "times a measure",
        rf"(?<![\w.,])(?P<count>[1-9]\d?)[x×](?=[1-9]\d*(?:\.\d+)?\s?(?:{_NAMES})(?![\w/]))",
        lambda match: f"{match['count']} by ",
        "x×",
        starts=r"\d",
        when=r"\d[x×]\d",
        near="x×",
    ),
    rule(
        "feet and inches",
        r"""(?<![\w.,])(?P<feet>\d{1,3})(?:(?<!\d\d)['′]\s?(?P<inches>\d{1,2})(?:["”″]|'')|\s?ft\.?\s(?P<inches>\d{1,2})\s?in\b\.?)""",
        _feet,
        "'′f",
        starts=r"\d",
        when=r"\d['′]\s?\d|\dft|\d\sft",
        near="'′f",
    ),
    rule(
        "inches with a stop",
        r"(?<=\d\s?)in\.(?=,|\)|\s(?:of|wide|long|tall|high|deep|thick|by|x|×)\b|(?<=\b(?:x|by)\s[\d.]{1,5}\s?in\.)\s[a-z])",
        lambda match: "inches",
        ".",
        near="i",
        when=r"\d\s?in\.",
    ),
    rule(
        "place",
        r"""(?<![\w.,])(?P<degrees>\d{1,3})°\s?(?P<minutes>\d{1,2})['′’]\s?(?:(?P<seconds>\d{1,2}(?:\.\d+)?)(?:["″”]|''))?""",
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
        rf"""{_RUN}[°º˚])(?P<sign>{SIGN})?{_BOUND}{_RANGE}\s?[°º˚](?:\s?(?P<scale>[CFK])(?!\w))?""",
        _degrees,
        "°º˚",
        starts=NUMERIC,
        near="°º˚",
    ),
    PRESSURE,
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
        rf"""{_BOUND}(?P<high>\d{{1,15}})-(?P<unit>(?!(?:s|h|g|l|L|m|V|W)\b)(?:{_NAMES}))
        (?:\.(?=\s[a-z]))?(?=\.?\s[a-z]|\)|-(?:old|long|tall|wide|high|deep|thick)\b)""",
        _compound,
        "-",
        starts=r"\d",
        when=r"\d-[A-Za-z]",
        near="-",
    ),
    rule(
        "number with a unit",
        rf"""{_RUN}(?:{_NAMES}|m|sq|cu)(?![A-Za-z]))
        (?P<sign>{SIGN})?{_BOUND}{_RANGE}(?P<blank>[ \u00a0\u202f\u2009]?){_UNIT}(?![\w²³'’]|-\d){_PER}{_STOP}""",
        _measure,
        starts=NUMERIC,
        when=rf"\d[ \u00a0\u202f\u2009]?(?:{_NAMES}|m|sq|cu)(?![A-Za-z])",
    ),
)
SQUARE = rule(
    "area or volume",
    rf"(?<![\w]|\d\s|\d\s?[A-Za-zµμ]{{1,4}}/)(?P<length>{_LENGTH_NAMES})(?P<power>[²³])(?!\w)",
    _square,
    "²³",
)
