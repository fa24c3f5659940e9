"""Times of day and durations with a colon."""

from __future__ import annotations

import regex

from services.encode.text.reading.rule import Match, rule
from services.encode.text.reading.words import cardinal, spelled, two_digits

_HALF = r"(?:\s?(?P<half{0}>[AaPp])(?:\.\s?[Mm](?!\w)\.?|[Mm]\b))"
_CLOCK = r"(?P<hour{0}>\d{{1,2}})(?:[:.](?P<minute{0}>[0-5]\d))?"
_BEFORE = r"(?<![\w:/]|\d[.,]|[$€£¥])"
_AT = regex.compile(r"\b(?:at|by|until|till|from|since|before|after)\s$", regex.IGNORECASE)
_LASTS = regex.compile(
    r"\b(?:(?:timer|countdown|duration|length|runtime|pace|record|best|elapsed|remaining)(?:\s(?:is|was|of|set\sto|set\sfor|for))?:?"
    r"|took|takes|lasted|lasts|ran|finish(?:ed|es)?\sin|won\sin|in|for|a\stime\sof|time\sof|total\stime:?)\s$",
    regex.IGNORECASE,
)
_LEFT = regex.compile(r"\s(?:left|remaining|elapsed|long|ago)\b")
_ZONE = regex.compile(r"\s?(?:Z|UTC|GMT|[ECMP][SD]?T|CEST|CET|BST|[+-]\d)")
_O_CLOCK = regex.compile(r"\s?o['’]?clock", regex.IGNORECASE)


def clock(hour: str, minute: str | None, second: str | None, half: str | None) -> str:
    """Read 3:00 PM, 19:00, 7:05 or 12:30:05."""
    value = str(int(hour))
    words = cardinal(value)
    if minute is not None and int(hour) > 24:  # minutes and seconds, as of a match
        words += f" {two_digits(minute)}" if minute != "00" else " zero zero"
    elif minute is not None and minute != "00":
        words += f" {two_digits(minute)}"
    elif half is None and minute is not None:
        words += " o'clock"
    if second is not None:
        words += f" and {cardinal(str(int(second)))} second{'' if int(second) == 1 else 's'}"
    return f"{words} {half.upper()}M" if half else words


def _time(match: Match) -> str | None:
    hour, minute, second = match["hour"], match["minute"], match["second"]
    text, end = match.string, match.end()
    if int(hour) > 59 and second is not None:
        return None
    if second is not None and match["half"] is None and minute is not None and _is_duration(match):
        return _lasts(int(hour), int(minute), second, match["fraction"])
    words = clock(hour, minute, second, match["half"])
    if match["fraction"]:
        words = words.rsplit(" ", 1)[0] + f" point {spelled(match['fraction'])} seconds"
    if words.endswith(" o'clock") and _O_CLOCK.match(text, end):
        words = words.removesuffix(" o'clock")
    return words


def _is_duration(match: Match) -> bool:
    text, start, end = match.string, match.start(), match.end()
    if match["fraction"] and match["hour"][0] != "0":
        return True
    return _LEFT.match(text, end) is not None or (
        _LASTS.search(text, max(0, start - 30), start) is not None and _ZONE.match(text, end) is None
    )


def _lasts(hours: int, minutes: int, second: str, fraction: str | None) -> str:
    """Read 2:00:35 as a length of time."""
    parts = [
        f"{cardinal(str(value))} {name}{'' if value == 1 else 's'}"
        for value, name in ((hours, "hour"), (minutes, "minute"))
        if value
    ]
    seconds = cardinal(str(int(second))) + (f" point {spelled(fraction)}" if fraction else "")
    if int(second) or fraction or not parts:
        parts.append(f"{seconds} second{'' if seconds == 'one' else 's'}")
    return " ".join(parts)


def _hour(match: Match) -> str | None:
    hour, last = match["hour"], match["hour2"]
    if int(hour) > 24 or (last and int(last) > 24):
        return None
    minute = match["minute"]
    if match["minute2"] is not None or last:
        first = clock(hour, minute, None, None) if minute else cardinal(str(int(hour)))
        return f"{first} to {clock(last, match['minute2'], None, match['half'])}"
    return clock(hour, minute, None, match["half"])


def _range(match: Match) -> str | None:
    first = (match["hour1"], match["minute1"], match["half1"])
    last = (match["hour2"], match["minute2"], match["half2"])
    hour_alone = last[1] and last[2] and int(first[0]) <= 12
    if not (first[1] or first[2] or hour_alone) or not (last[1] or last[2]) or int(first[0]) > 24 or int(last[0]) > 24:
        return None
    return f"{clock(first[0], first[1], None, first[2])} to {clock(last[0], last[1], None, last[2])}"


def _hours_of_a_day(match: Match) -> str | None:
    """Read 0900 hours; 1400 hours may be a quantity, unless a preposition of time precedes it."""
    first, last = match["first"], match["last"]
    before = _AT.search(match.string, max(0, match.start() - 8), match.start())
    if first[0] != "0" and (before is None or match.string.startswith(" of ", match.end())):
        return None
    words = " to ".join(_of_a_day(digits) for digits in (first, last) if digits)
    unit = match["unit"].strip()
    return f"{words} {'hours' if unit == 'hrs' else unit}"


def _of_a_day(digits: str) -> str:
    hour, minute = digits[:2], digits[2:]
    words = spelled(hour) if hour[0] == "0" else cardinal(hour)
    return f"{words} {'hundred' if minute == '00' else two_digits(minute)}"


def _zone(match: Match) -> str:
    sign, hours = ("plus" if match["sign"] == "+" else "minus"), match["hours"]
    words = f" {sign} {cardinal(str(int(hours)))}"
    return f"{words} {cardinal(match['minutes'])}" if match["minutes"] and match["minutes"] != "00" else words


HOURS_OF_A_DAY = rule(
    "hours of a day",
    r"(?<![\w.,:/$€£-])(?P<first>(?:[01]\d|2[0-3])[0-5]\d)(?:\s?[-–]\s?(?P<last>(?:[01]\d|2[0-3])[0-5]\d))?"
    r"\s?(?P<unit>hours|hrs|UTC|GMT|Zulu)\b",
    _hours_of_a_day,
    starts="012",
    when=r"\d\d\s?(?:h|UTC|GMT|Z)",
)
"""Tried before telephone numbers: 0900-1700 hours."""
RULES = (
    rule(
        "time zone",
        r"(?:(?<=\b(?:UTC|GMT))\s?|(?<=:\d\d:\d\d(?:\.\d+)?)|(?<=:\d\d)(?=\+))(?P<sign>[+−-])(?P<hours>[01]?\d)(?::?(?P<minutes>[0-5]\d))?(?![\w:]|[.,]\d)(?!\s?[AaPp][Mm])",
        _zone,
        "+-−",
        near="+-−",
    ),
    rule(
        "noon",
        r"(?<=\b(?:noon|midnight))\s?[-–]\s?(?=\d)|(?<=\d\s?[ap]\.?m\.?|(?<![\w.,:/-])\d{1,2}(?::\d\d)?)\s?[-–]\s?(?=(?:noon|midnight)\b)",
        lambda match: " to ",
        "-–",
        words=("noon", "midnight"),
        flags=regex.IGNORECASE,
    ),
    rule(
        "times from and to",
        rf"""{_BEFORE}(?<!-){_CLOCK.format(1)}{_HALF.format(1)}?\s?[-–—]\s?{_CLOCK.format(2)}{_HALF.format(2)}?(?![\w:]|[.,]\d)""",
        _range,
        "-–—",
        starts=r"\d",
        when=r"[\d.mM]\s?[-–—]\s?\d",
        near="-–— ",
    ),
    rule(
        "time",
        rf"""(?<![\w:/]|\d[.,]|[$€£¥])(?P<hour>\d{{1,2}}):(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d)(?:[.,](?P<fraction>\d+))?)?
        (?:{_HALF.format("")}|(?P<half>[ap])|h)?(?!\d|[:/.,]\d|(?<=\d[aph])\w)""",
        _time,
        ":",
        starts=r"\d",
        when=r"\d:\d",
        near=":",
    ),
    rule(
        "hour with a letter",
        r"(?<=(?:\bat|@)\s?)(?P<hour>1[0-2]|[1-9])(?P<half>[ap])"
        r"(?:(?<=@\s?\d{1,2}[ap])(?![\w'’]|\.\w)|(?=[,;)]|$|\s(?:on|for|today|tomorrow|tonight|sharp|with|and|or)\b))",
        lambda match: clock(match["hour"], None, None, match["half"]),
        starts=r"\d",
        when=r"(?:at|@) ?\d{1,2}[ap]\b",
    ),
    rule(
        "hour",
        rf"""{_BEFORE}(?<!-)(?P<hour>\d{{1,2}})(?:[:.](?P<minute>[0-5]\d))?
        (?:\s?[-–—]\s?(?P<hour2>\d{{1,2}})(?:[:.](?P<minute2>[0-5]\d))?)?{_HALF.format("")}(?!\w)""",
        _hour,
        "mM",
        starts=r"\d",
        when=r"\d\s?[AaPp]\.?\s?[Mm]",
    ),
)
