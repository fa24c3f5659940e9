"""Dates, months, years and decades."""

from __future__ import annotations

import regex

from services.encode.text.reading.english.amounts import counts
from services.encode.text.reading.rule import Match, rule
from services.encode.text.reading.words import YEARS, cardinal, is_recent, ordinal, plural, two_digits, year

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
SHORT_MONTHS = {name[:3]: name for name in MONTHS}
_NAMES = "|".join(
    [*MONTHS, *(name.upper() for name in MONTHS), *(name.lower() for name in MONTHS if name not in ("March", "May"))]
)
_SHORT_NAMES = "Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec"
_MONTH = rf"(?:{_NAMES}|(?:{_SHORT_NAMES})\b\.?|(?:{_SHORT_NAMES.upper()})\b)"
_MONTH_WORDS = (*(name.lower() for name in MONTHS), *(name.lower()[:3] for name in MONTHS), "sept")
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_SUFFIX = r"(?:st|nd|rd|th|ST|ND|RD|TH)?"
_YEAR = r"[12]\d{3}"
_AFTER_YEAR = r"(?!\d|[.,:/-]\d|\s?[%‰°])"
_NO_MORE = r"(?![\d]|[-/.,:]\d)"
_WEEKDAY = regex.compile(
    r"\b(?:(?:Mon|Tues?|Wed(?:nes)?|Thu(?:rs)?|Fri|Sat(?:ur)?|Sun)(?:day)?|on|by|due|until|till|since|from|before|after|"
    r"dated?|born|between|(?:week|weekend|month)\sof)[.,]?\s+(?:the\s+)?$",
    regex.IGNORECASE,
)
_SLASHED = regex.compile(r"(?<![\d/.-])(\d{1,2})/(\d{1,2})/(?:\d{4}|\d{2})(?![\d/])")
_MEASURED = regex.compile(r"\s?(?:[\"”″]|(?:in|inch|inches|of|cups?|teaspoons?|tablespoons?|tsp|tbsp|miles?|mi)\b)")
_HALVED = frozenset((2, 3, 4, 8, 16, 32))
"""Denominators of fractions of an inch or a cup."""
_SIDES = (("first", "second"), ("third", "fourth"))
_NO_MONTH = regex.compile(r"\s(?:be|have|not|need|also|I|we|you|he|she|they|it)\b")
_ORDINAL_BEFORE = regex.compile(r"(?:th|first|second|third)\sof\s$")
_MARKS = {"/": "slash", ".": "dot", "-": "dash"}
_DECADES = {
    "0": "hundreds", "1": "tens", "2": "twenties", "3": "thirties", "4": "forties", "5": "fifties", "6": "sixties",
    "7": "seventies", "8": "eighties", "9": "nineties",
}  # fmt: skip
_OWNER = regex.compile(
    r"\b(?:the|his|her|their|my|your|our|early|mid|late|these|those|roaring|in|lower|upper|tonight|today|tomorrow|lows?|highs?|temp(?:erature)?s|"
    r"the (?:over|under)):?[ -](?:['’]?\d0['’]?s(?:,\s(?:and\s|or\s)?|\s(?:and|or|to)\s|[-–])){0,3}$",
    regex.IGNORECASE,
)


def _name(month: str) -> str:
    return SHORT_MONTHS[month.rstrip(".")[:3].title()]


def date(month: int, day: str, years: str | None) -> str:
    words = f"{MONTHS[month - 1]} {ordinal(day)}"
    return f"{words}, {year(years)}" if years else words


def _iso(match: Match) -> str | None:
    month, day = int(match["month"]), int(match["day"])
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    return date(month, match["day"], match["year"]) + (", " if match["time"] else "")


def _day_comes_first(text: str) -> bool | None:
    """Return the order that the dates of a sentence have in common; None if no date shows it, or two differ."""
    orders = {int(first) > 12 for first, second in _SLASHED.findall(text) if (int(first) > 12) != (int(second) > 12)}
    return orders.pop() if len(orders) == 1 else None


def _numeric(match: Match) -> str | None:
    """Read a date whose order is certain as a date; of others, read the numbers."""
    first, second, mark, years = match["first"], match["second"], match["mark"], match["year"]
    short = len(years) == 2
    if (short and mark == "-") or not (1 <= int(first) <= 31 and 1 <= int(second) <= 31):
        return None
    if not short and not 1000 <= int(years) <= 2999:
        return None
    a, b = int(first), int(second)
    day_first = _day_comes_first(match.string) if a <= 12 and b <= 12 else None
    if day_first is not None:
        day, month = (first, b) if day_first else (second, a)
        return f"{date(month, day, None)}, {cardinal(years) if short else year(years)}"
    if a <= 12 and b <= 12 and a != b:
        if short and mark == ".":
            return None
        said = f" {_MARKS[mark]} "
        return said.join((cardinal(first), cardinal(second), year(years) if not short else cardinal(years)))
    if a > 12 and b > 12:
        return None
    if mark == "." and short and len(first + second) < 4:
        return None
    day, month = (first, b) if a > 12 else (second, a)
    words = date(month, day, None)
    return f"{words}, {cardinal(years) if short else year(years)}"


def _month_day(match: Match) -> str | None:
    if not _WEEKDAY.search(match.string, max(0, match.start() - 24), match.start()):
        return None
    first, second = match["first"], match["second"]
    a, b = int(first), int(second)
    if a > 31 or b > 31 or not a or not b or (a > 12 and b > 12):
        return None
    if a <= 12 and b <= 12 and a != b:
        return f"{cardinal(first)} slash {cardinal(second)}"
    return date(b, first, None) if a > 12 else date(a, second, None)


def _days(match: Match) -> str:
    """Read 12/24-12/26 as dates, if a day above 12 shows their order. A later rule reads the fractions 1/2-3/4."""
    a, b, c, d = (int(match[name]) for name in ("first", "second", "third", "fourth"))
    if _MEASURED.match(match.string, match.end()) or (a < b and c < d and {b, d} <= _HALVED):
        return f"{a}/{b} to {c}/{d}"
    if a > 12 or c > 12:
        a, b, c, d = b, a, d, c
    possible = all(1 <= month <= 12 for month in (a, c)) and all(1 <= day <= 31 for day in (b, d))
    if not possible or max(b, d) <= 12 or not (a < c or (a == c and b < d) or (a > 9 and c < 4)):
        sides = (f"{cardinal(match[over])} slash {cardinal(match[under])}" for over, under in _SIDES)
        return " to ".join(sides)
    return f"{date(a, str(b), None)} to {date(c, str(d), None)}"


def _year_month(match: Match) -> str:
    return f"{year(match['year'])} dash {cardinal(match['month'])}"


def _after_month(match: Match) -> str | None:
    month, years, last = _name(match["month"]), match["year"], match["last"]
    alone = match["year_alone"]
    if counts(match.string, match.end()) and (years or (alone and not is_recent(alone))):  # in March 1500 people
        return None
    if match["day"] and _ORDINAL_BEFORE.search(match.string, max(0, match.start() - 12), match.start()):
        return None  # a rule before this one has read the day
    if alone:
        return f"{month} {year(alone)}"
    if not years and (counts(match.string, match.end()) or match.string[match.end() : match.end() + 1] == "%"):
        return None
    words = f"{month} {ordinal(match['day'])}"
    if last:
        words += f" to {ordinal(last)}"
    return f"{words}, {year(years)}" if years else words


def _before_month(match: Match) -> str | None:
    month = _name(match["month"])
    if month == "May" and _NO_MONTH.match(match.string, match.end()):
        return None
    words = ordinal(match["day"])
    if match["last"]:
        words += f" to {ordinal(match['last'])}"
    start = match.start()
    article = (
        ""
        if " of " in match.group() or match.string[max(0, start - 4) : start].lower() in ("the ", " the ")
        else "the "
    )
    words = f"{article}{words} of {month}"
    if match["short"]:
        if counts(match.string, match.end()):
            return None
        return f"{words}, {two_digits(match['short'])}"
    return f"{words}, {year(match['year'])}" if match["year"] else words


def _day_month_year(match: Match) -> str:
    years = match["year"]
    return f"{_name(match['month'])} {ordinal(match['day'])}, {year(years) if len(years) == 4 else cardinal(years)}"


def _years(match: Match) -> str | None:
    first, last = match["first"], match["last"]
    if int(first) not in YEARS:
        return None
    if len(last) == 4:
        if int(last) not in YEARS or int(last) <= int(first):
            return None
        return f"{year(first)} to {year(last)}"
    if int(last) <= int(first[2:]):
        return None
    if match["dash"].strip() == "-" and int(last) <= 12:  # 2010-11 may be a month
        return f"{year(first)} dash {cardinal(last)}"
    return f"{year(first)} to {'oh ' + cardinal(last[1]) if last[0] == '0' else cardinal(last)}"


def _decade(match: Match) -> str | None:
    digits, apostrophe = match["digits"], match["apostrophe"] or match["inner"]
    if len(digits) == 2:
        if digits[0] in "01" or not (
            apostrophe or _OWNER.search(match.string, max(0, match.start() - 40), match.start())
        ):
            return None
        return _DECADES[digits[0]]
    return _decade_words(digits)


def _decades(match: Match) -> str:
    last, joint = match["last"], match["joint"].strip()
    until = _DECADES[last[0]] if len(last) == 2 else _decade_words(last)
    return f"{_decade_words(match['first'])} {'to' if joint in '-–—' else joint} {match['article'] or ''}{until}"


def _decade_words(digits: str) -> str | None:
    century, decade = digits[:2], digits[2]
    if decade == "0":
        if century[1] == "0":
            return f"{cardinal(century[0])} thousands"
        return f"{cardinal(century)} hundreds"
    return f"{cardinal(century)} {_DECADES[decade]}" if century[1] != "0" or century == "20" else None


def _short_year(match: Match) -> str:
    digits = match["digits"]
    return f"oh {cardinal(digits[1])}" if digits[0] == "0" else cardinal(digits)


def _era(match: Match) -> str:
    return f"{year(match['year'])} {' '.join(match['era'].replace('.', ''))}"


RULES = (
    rule(
        "ISO date",
        rf"""(?<![\w/.-])(?P<year>{_YEAR})(?P<mark>[-/.])(?P<month>0[1-9]|1[0-2]|(?<![.])[1-9])(?P=mark)(?P<day>0[1-9]|[12]\d|3[01]|(?<![.])[1-9])
        (?:(?P<time>T)(?=\d\d:\d\d)|(?![\d/]|[-.]\d))""",
        _iso,
        "-/.",
        starts="12",
        when=r"\d[-/.]\d",
        near="-/.",
    ),
    rule(
        "date in digits",
        r"(?<![\w/.-])(?P<first>\d{1,2})(?P<mark>[/.-])(?P<second>\d{1,2})(?P=mark)(?P<year>\d{4}|\d{2})(?![\w/]|[-.]\d)",
        _numeric,
        "-/.",
        starts=r"\d",
        when=r"\d[-/.]\d",
        near="-/.",
    ),
    rule(
        "days from and to",
        r"(?<![\w/.,-])(?P<first>\d{1,2})/(?P<second>\d{1,2})\s?[-–]\s?(?P<third>\d{1,2})/(?P<fourth>\d{1,2})(?![\w/]|[-.,]\d)",
        _days,
        "/",
        starts=r"\d",
        when=r"/\d\d?\s?[-–]\s?\d",
        near="/",
    ),
    rule(
        "month and day",
        r"(?<![\w/.,-])(?P<first>\d{1,2})/(?P<second>\d{1,2})(?![\w/]|[-.,]\d)",
        _month_day,
        "/",
        starts=r"\d",
        near="/",
    ),
    rule(
        "year and month",
        r"(?<![\w/.,-])(?P<year>19\d\d|20\d\d)-(?P<month>0[1-9])(?![\w/-]|[.,]\d)",
        _year_month,
        "-",
        starts="12",
        near="-",
    ),
    rule(
        "date with a month's name",
        rf"""\b(?P<day>{_DAY}){_SUFFIX}[-/](?P<month>{_MONTH})[-/](?P<year>\d{{4}}|\d{{2}})(?![\w-])""",
        _day_month_year,
        "-/",
        starts=r"\d",
        words=_MONTH_WORDS,
        near="-/",
    ),
    rule(
        "day before a month",
        rf"""(?<![\w.,:/$€£-])(?P<day>{_DAY}){_SUFFIX}(?:\s?[-–]\s?(?P<last>{_DAY}){_SUFFIX})?\s+(?:of\s+)?(?P<month>{_MONTH})
        (?![\w])(?:,?\s+(?P<year>{_YEAR}){_AFTER_YEAR}(?!\w)
        |\s+['’]?(?P<short>\d\d)(?![\w°%]|[.,:/-]\d|\s?[AaPp]\.?[Mm]\b))?""",
        _before_month,
        starts=r"\d",
        words=_MONTH_WORDS,
    ),
    rule(
        "month before a day or year",
        rf"""\b(?P<month>{_MONTH})(?![\w])(?:,?\s+(?P<year_alone>{_YEAR})(?!\w){_AFTER_YEAR}
        |\s+(?P<day>{_DAY}){_SUFFIX}(?:\s?[-–]\s?(?P<last>{_DAY}){_SUFFIX})?(?![\w]|[.:/-]\d|,\d)(?:,?\s+(?P<year>{_YEAR})(?!\w){_AFTER_YEAR})?)""",
        _after_month,
        starts="JFMASONDjfasond",
        words=_MONTH_WORDS,
    ),
    rule(
        "month and short year",
        rf"\b(?P<month>{_MONTH})(?=\s['’]\d\d(?!\d))",
        lambda match: _name(match["month"]),
        "'’",
        starts="JFMASONDjfasond",
        words=_MONTH_WORDS,
        when=r"['’]\d\d",
    ),
    rule(
        "quarters from and to",
        r"(?<=\b(?:Q[1-4]|H[12]|FY\d\d))\s?[-–]\s?(?=(?:Q[1-4]|H[12]|FY\d\d|(?<=FY\d\d.)\d\d)\b)",
        lambda match: " to ",
        "-–",
        when=r"\b(?:Q[1-4]|H[12]|FY\d\d)\s?[-–]",
    ),
    rule(
        "years",
        r"(?<![\w.,/$€£-])(?P<first>\d{4})(?P<dash>\s?[-–—]\s?)(?P<last>\d{4}|\d\d)(?![\w]|[.,/-]\d|-)",
        _years,
        "-–—",
        starts=r"\d",
        when=r"\d\s?[-–—]\s?\d",
        near="-–—",
    ),
    rule(
        "decades",
        r"(?<![\w.,$€£])(?P<first>1[1-9]\d0|20\d0)['’]?s(?P<joint>\s?[-–—]\s?|\s(?:and|or|to)\s)(?P<article>the\s)?['’]?"
        r"(?P<last>1[1-9][1-9]0|20\d0|[2-9]0)['’]?s(?!\w)",
        _decades,
        "s",
        starts=r"\d",
        when=r"0['’]?s",
        near="s'’",
    ),
    rule(
        "decade",
        r"(?<![\w.,$€£])(?P<apostrophe>['’])?(?P<digits>[1-9]0|1[1-9]\d0|20\d0)(?P<inner>['’])?s(?!\w)",
        _decade,
        "s",
        starts=r"\d'’",
        when=r"0['’]?s",
        near="s'’",
    ),
    rule(
        "plural of a number",
        r"(?<=\b(?:sizes?|two|three|four|both|pairs?\sof)\s)(?P<digits>[1-9]\d?)['’]?s"
        r"(?!\w|[ -](?!(?:and|or|in|on|for|from)\b)[a-z])",
        lambda match: plural(cardinal(match["digits"])),
        "s",
        starts=r"\d",
        words=("size", "sizes", "two", "three", "four", "both", "pair", "pairs"),
        near="s'’",
    ),
    rule(
        "short year",
        r"(?:(?<!\w)|(?<=\b(?:[QH][1-4]|FY)))['’](?P<digits>\d\d)(?![\w'’]|[.,]\d)",
        _short_year,
        "'’",
        starts="'’",
        near="'’",
    ),
    rule(
        "era",
        r"(?<![\w.,])(?P<year>\d{3,4})\s?(?P<era>BCE?|CE|AD|B\.C\.(?:E\.)?|A\.D\.)(?!\w)",
        _era,
        "BCA",
        starts=r"\d",
    ),
)
