"""Written numbers: digits in groups, decimals, signs, and what follows them."""

from __future__ import annotations

import re
from typing import NamedTuple

from services.encode.text.reading.words import LONGEST_NUMBER, cardinal, spelled

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
µIU micro_international_unit|μIU micro_international_unit|mIU milli_international_unit|bp basis_point
kts knot|µF microfarad|μF microfarad|nF nanofarad|pF picofarad
fps frame_per_second frames_per_second|ppm part_per_million parts_per_million|ppb part_per_billion parts_per_billion
sqft square_foot square_feet|sqm square_meter|inHg inch_of_mercury inches_of_mercury|pts point
MPH mile_per_hour miles_per_hour|KPH kilometer_per_hour kilometers_per_hour|KM kilometer|KG kilogram|LB pound|LBS pound
RPM revolution_per_minute revolutions_per_minute|BPM beat_per_minute beats_per_minute
dpi dot_per_inch dots_per_inch|mpg mile_per_gallon miles_per_gallon
"""
UNITS: dict[str, tuple[str, str]] = {}
for _entry in _TABLE.replace("|", "\n").split("\n"):
    if _entry:
        _short, _one, *_more = (part.replace("_", " ") for part in _entry.split())
        UNITS[_short] = (_one, _more[0] if _more else f"{_one}s")

CERTAIN_UNITS = ("km", "cm", "mm", "kg", "mg", "ml", "MB", "GB", "TB", "KB", "kW", "kWh", "MHz", "GHz", "mph")
"""Units that are nothing else after a number, whatever precedes it."""
BLANK = "[ \u00a0\u2009\u202f'’]"
_NAMES = "Chapter|Section|Page|Part|Step|Day|Week|Level|Lesson|Episode|Season|Volume|Version|Windows|Android"
"""Names of things with numbers, which may begin a sentence."""
_PEOPLE = "people|inhabitants|residents|soldiers|visitors|euros|dollars|pounds|tons|tonnes"
_CAPITALISED = r"[\p{L}\p{N}][,;]?[ ][\p{L}\p{N}'’-]*\p{Lu}[\p{L}\p{N}'’-]*"
"""A word with a capital that begins no sentence."""
_TWO_NUMBERS = rf"""(?<=[ ])[1-9]\d\d(?![ ]?\d)(?:(?=-?\p{{L}}|-\d{{1,3}}(?![ \d])|[ ][GT]B\b)
    |(?<=(?:{_CAPITALISED}|\b(?:{_NAMES}))[ ]\d{{1,3}}[ ]\d{{3}})(?![ ](?:{_PEOPLE})\b))"""
"""Digits after a blank that are a number of their own: iPhone 15 128GB, a Pixel 8 256 GB, Chapter 5 120 pages."""
GROUPED = rf"""(?:
    [1-9]\d{{0,2}}(?:,\d{{3}})+(?:\.\d+)?          # 1,234.5
  | [1-9]\d{{0,2}}(?:\.\d{{3}})+,\d+               # 1.234,5
  | [1-9]\d{{0,2}}(?:\.\d{{3}}){{2,}}              # 1.234.567
  | [1-9]\d{{0,2}}(?P<gap>{BLANK})(?!{_TWO_NUMBERS})\d{{3}}(?:(?P=gap)\d{{3}})*(?:[.,]\d+)?   # 1 234 567
  | [1-9]\d?(?:,\d\d)+,\d{{3}}(?:\.\d+)?           # 12,34,567
)"""
NUMBER = rf"(?:{GROUPED}|\d+(?:\.\d+)?|\.\d+)"
"""A number. `gap` must not be used as a name of another group in the same pattern; use `numbers` for more than one."""
BEGIN = r"(?<![\d]|\d[.,])"
END = r"(?!\d|[.,]\d)"
SIGN = r"(?:(?<![\w.,)\]%°$€£¥/-])[-−–+±~≈])"
DASH = r"\s?[-–—−]\s?"
SIGNS = {"-": "minus ", "−": "minus ", "–": "minus ", "+": "plus ", "±": "plus or minus ", "~": "about ", "≈": "about "}
THINGS = (
    "followers|views|users|subscribers|people|likes|downloads|customers|members|visitors|readers|viewers|fans|copies|"
    "employees|jobs|requests|tokens|parameters|samples|steps|shares|streams|plays|records|rows|words|stars|miles"
)
"""Nouns after 5K and 2M, whose letters are a thousand and a million."""
_BLANKS = str.maketrans(dict.fromkeys(" \u00a0\u2009\u202f'’"))
_NOUN = re.compile(r"[ -]([a-z]+)")
_NOT_NOUNS = frozenset(
    [
        "is",
        "was",
        "has",
        "its",
        "as",
        "this",
        "us",
        "vs",
        "plus",
        "versus",
        "does",
        "perhaps",
        "always",
        "unless",
        "across",
        "towards",
        "less",
    ]
)
_NOUNS = frozenset(
    [
        "people",
        "men",
        "women",
        "children",
        "percent",
        "feet",
        "dollars",
        "dollar",
        "euro",
        "meters",
        "year",
        "month",
        "day",
        "hour",
    ]
)


def number(name: str, *, comma: bool = False) -> str:
    """Return `NUMBER` as a named group; with `comma`, also a decimal comma (29,99), as before units and currencies."""
    written = NUMBER.replace("gap", f"gap_{name}")
    decimal = r"\d+,\d{1,2}(?!\d) | \d+,\d{4,} |" if comma else ""
    return rf"(?P<{name}>{decimal}{written})"


class Amount(NamedTuple):
    """A number as its digits."""

    whole: str
    fraction: str = ""

    @property
    def is_one(self) -> bool:
        return self.whole == "1" and not self.fraction

    @property
    def digits(self) -> str:
        return f"{self.whole or 0}.{self.fraction or 0}"

    def words(self) -> str:
        whole = (
            (spelled(self.whole) if len(self.whole) > LONGEST_NUMBER else cardinal(self.whole)) if self.whole else ""
        )
        return f"{whole} point {spelled(self.fraction)}".lstrip() if self.fraction else whole


def amount(written: str) -> Amount:
    """Return the digits of what `NUMBER` matched, or of a decimal comma."""
    if written.isdigit():
        return Amount(written)
    digits = written.translate(_BLANKS)
    commas, dots = digits.count(","), digits.count(".")
    if commas and dots:
        mark = "," if digits.rindex(",") > digits.rindex(".") else "."
    elif commas:
        mark = "" if _is_grouped(digits, ",") else ","
    else:
        mark = "" if dots > 1 else "."
    whole, _, fraction = digits.partition(mark) if mark else (digits, "", "")
    return Amount(whole.replace(",", "").replace(".", ""), fraction)


def _is_grouped(digits: str, mark: str) -> bool:
    return len(digits.rsplit(mark, 1)[1]) == 3


def counts(text: str, end: int) -> bool:
    """Return whether what follows `end` seems to be a noun that a number counts: 1500 people, 25000 tickets."""
    noun = _NOUN.match(text, end)
    if noun is None:
        return False
    word = noun.group(1)
    return word in _NOUNS or (
        len(word) > 3 and word.endswith("s") and not word.endswith("ss") and word not in _NOT_NOUNS
    )


def sign_words(sign: str | None) -> str:
    return SIGNS[sign.strip()] if sign else ""
