"""Ordinals, fractions, ratios, ranges, powers, and plain numbers."""

from __future__ import annotations

import regex

from services.encode.text.reading.english.amounts import BLANK, END, GROUPED, SIGN, amount, counts, number, sign_words
from services.encode.text.reading.english.fractions import FRACTION, fraction_words, is_fraction, is_rating
from services.encode.text.reading.rule import NUMERIC, Match, rule
from services.encode.text.reading.words import YEARS, cardinal, is_recent, ordinal, spelled, two_digits, year

_LONGEST_UNGROUPED = 15
_PAIRS = {"24/7": "twenty-four seven", "9/11": "nine eleven", "50/50": "fifty fifty", "20/20": "twenty twenty"}
_PAIRS |= {"24/7/365": "twenty-four seven three sixty-five", "24-7": _PAIRS["24/7"], "50-50": _PAIRS["50/50"]}
_SHAPES = frozenset(["16:9", "4:3", "21:9", "16:10", "9:16", "3:2", "18:9"])
_SUFFIX = r"\d(?:[sS][tT]|[nN][dD]|[rR][dD]|[tT][hH])(?!\w)"
_OF = regex.compile(
    r"\b(?:step|lap|task|page|part|slide|chapter|day|round|question|lesson|episode|level|phase|attempt|track|module|stage)\s$",
    regex.IGNORECASE,
)
_ODDS = regex.compile(r"\s(?:odds|shot|chance|longshot|outsider|favou?rite|against)\b")
_EQUATION = regex.compile(r"[=/]|\b(?:equals|times|divided by)\b")
_RESULT = regex.compile(r"\s*(?:=|equals\b)")
_SECONDS = regex.compile(r"[0-5]\d\.\d{1,3}")
_RUNS = regex.compile(r"\d+|\D")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_YEAR_BEFORE = regex.compile(
    r"\b(?:in|since|by|from|until|till|year:?|years|circa|c\.|before|after|during|late|early|mid|summer|spring|winter|fall|autumn|"
    r"of|between|through|to|and|around|the|class|season|q[1-4]|fy|copyright|vintage|back|est\.?|born|died|"
    r"a\.?d\.?)[ -]\(?$",
    regex.IGNORECASE,
)

_YEAR_BEFORE_NOUN = regex.compile(
    r"\b(?:in|since|by|during|after|before|until|the|its|their|our|last)\s$", regex.IGNORECASE
)


def _ordinal(match: Match) -> str | None:
    digits = match["number"].replace(",", "")
    if len(digits) > _LONGEST_UNGROUPED or int(digits) == 0:
        return spelled(digits) + " th"
    return ordinal(str(int(digits)))


def _ordinals(match: Match) -> str:
    return f"{ordinal(match['first'])} to {ordinal(match['last'])}"


def _scientific(match: Match) -> str:
    base, exponent = amount(match["base"]), match["exponent"]
    return f"{sign_words(match['sign'])}{base.words()} times ten to the power of {_exponent(exponent)}"


def _exponent(written: str) -> str:
    sign = "minus " if written[0] in "-−" else ""
    return sign + cardinal(written.lstrip("-−+"))


def _power(match: Match) -> str:
    exponent = match["exponent"].translate(_SUPERSCRIPTS)
    if exponent in ("2", "3"):
        return f"{match['base']} {'squared' if exponent == '2' else 'cubed'}"
    return f"{match['base']} to the power of {exponent}"


def _fraction(match: Match) -> str | None:
    pair = f"{match['over']}/{match['under']}"
    if match["whole"] is None and pair in _PAIRS:
        return _PAIRS[pair]
    if (
        match["whole"] is None
        and int(match["over"]) >= int(match["under"])
        and _RESULT.match(match.string, match.end())
    ):
        return f"{plain(match['over'])} divided by {plain(match['under'])}"
    if match["whole"] is None and _makes_a_hundred(match):
        return f"{cardinal(match['over'])} {cardinal(match['under'])}"
    hundredths = match["under"] == "100" and len(match["over"]) == 2
    if match["whole"] is None and (pair == "10/10" or match["over"] == match["under"] or hundredths):
        return f"{plain(match['over'])} out of {plain(match['under'])}"
    if match["whole"] is None and int(match["over"]) <= int(match["under"]):
        numbered = _OF.search(match.string, max(0, match.start() - 30), match.start()) is not None
        joint = " out of " if is_rating(match) else " of " if numbered else ""
        if joint:
            return f"{plain(match['over'])}{joint}{plain(match['under'])}"
    if not is_fraction(match):
        if match["whole"] is not None:
            return f"{plain(match['whole'])} {plain(match['over'])} slash {plain(match['under'])}"
        return f"{plain(match['over'])} slash {plain(match['under'])}"
    return fraction_words(match)


def _makes_a_hundred(match: Match) -> bool:
    """Return whether the numbers are two parts of a whole, in percent: an 80/20 rule."""
    over, under = match["over"], match["under"]
    pair = len(over) == len(under) == 2 and int(over) + int(under) == 100
    return pair and not match.string.startswith(" of ", match.end())


def _decimal_rating(match: Match) -> str:
    over, under = amount(match["over"]), amount(match["under"])
    joint = "out of" if float(match["over"]) <= float(match["under"]) else "slash"
    return f"{over.words()} {joint} {under.words()}"


def _season(match: Match) -> str | None:
    """Read the years of a season: 1999/2000, 2023/24."""
    first, last = match["first"], match["last"]
    following = str(int(first) + 1)
    if following[-len(last) :] != last or int(first) not in YEARS:
        return None
    return f"{year(first)} {year(last) if len(last) == 4 else two_digits(last)}"


def _ratio(match: Match) -> str:
    written = match.group()
    parts = regex.split(r"\s?:\s?", written)
    joint = " to " if written not in _SHAPES and any(len(part) == 1 for part in parts[1:]) else " "
    if len(parts[0]) == 1 and written not in _SHAPES and " " not in written:
        joint = " to "
    return joint.join(plain(part) for part in parts)


def _ratio_of_decimals(match: Match) -> str:
    joint = "" if _SECONDS.fullmatch(match["last"]) and match["first"].isdigit() else "to "
    last = match["last"]
    if not joint and regex.match("0[1-9]", last):
        joint, last = "oh ", last[1:]
    return f"{amount(match['first']).words()} {joint}{amount(last).words()}"


def _range(match: Match) -> str | None:
    first, last = match["first"], match["last"]
    if match.group() in _PAIRS:
        return _PAIRS[match.group()]
    if first.isdigit() and len(first) > 4 and len(last) < 3:
        return None  # EN 60601-1
    return f"{sign_words(match['sign'])}{_side(first)} to {_side(last)}"


def _side(written: str) -> str:
    return amount(written).words() if regex.search(r"[.,\s'’]", written) else plain(written)


def _list(match: Match) -> str:
    if match.group() in _PAIRS:
        return _PAIRS[match.group()]
    parts = regex.split(r"([,/-])", match.group())
    said = {",": ", ", "/": " slash ", "-": " dash "}
    if all(len(part) == 1 for part in parts):  # 9-1-1
        said["-"] = " "
    elif len(parts) == 3:  # part 10000-20, EN 60601-1
        said["-"] = " to " if _ODDS.match(match.string, match.end()) is not None else ", "
    years = all(len(part) == 4 and is_recent(part) for part in parts[::2])
    return "".join(said.get(part) or (year(part) if years else plain(part)) for part in parts)


def plain(digits: str, *, counted: bool = False) -> str:
    """Read ungrouped digits: five or more, or a leading zero, name something and are read digit by digit."""
    if len(digits) > 1 and digits[0] == "0":
        return spelled(digits)
    if len(digits) < 5 or (len(digits) <= _LONGEST_UNGROUPED and (counted or digits.endswith("000"))):
        return cardinal(digits)
    return spelled(digits)


def is_year(digits: str, text: str, start: int, *, counted: bool) -> bool:
    """Return whether the digits at `start` are a year; `counted`: a noun follows that they may count."""
    if len(digits) != 4 or int(digits) not in YEARS:
        return False
    if counted:  # in 2023 sales rose, the 2020 elections
        return is_recent(digits) and _YEAR_BEFORE_NOUN.search(text, max(0, start - 8), start) is not None
    if text[max(0, start - 2) : start] == " (" and text[start + 4 : start + 5] == ")":  # A Tale of Two Cities (1859)
        return True
    return digits >= "1900" or _YEAR_BEFORE.search(text, max(0, start - 12), start) is not None


def _number(match: Match) -> str:
    written, text, end = match["value"], match.string, match.end()
    sign = sign_words(match["sign"])
    if not written.isdigit():
        return sign + amount(written).words()
    counted = counts(text, end)
    if not sign and is_year(written, text, match.start(), counted=counted):
        return year(written)
    return sign + plain(written, counted=counted or bool(sign))


def _more(match: Match) -> str:
    return f"{plain(match['value'])} plus"


def _charges(match: Match) -> str:
    charges = f"{cardinal(match['charges'].translate(_SUPERSCRIPTS))} " if match["charges"] else ""
    return f" {charges}{'plus' if match['sign'] == '⁺' else 'minus'}"


def _index(match: Match) -> str:
    written = match.group().translate(_SUPERSCRIPTS)
    if match.group() in "²³" and _EQUATION.search(match.string) and match.string[: match.start()][-1:].isalpha():
        return "squared" if written == "2" else "cubed"  # weight / height²
    return f"{'to the power of minus ' if written[0] == '-' else ''}{cardinal(written.lstrip('+-'))}"


def _last_resort(match: Match) -> str:
    said = {".": "point", ":": "", "-": "dash", "/": "slash"}
    words = (spelled(part) if part.isdigit() else said.get(part, part) for part in _RUNS.findall(match.group()))
    return " ".join(word for word in words if word).replace(" ,", ",")


ORDINALS = (
    rule(
        "fraction with an ordinal",
        r"(?<![\w./])(?P<over>[1-9]\d{0,2})/(?P<under>[1-9]\d{0,3})(?:st|nd|rd|th)(?P<many>s)?(?!\w)",
        lambda match: f"{cardinal(match['over'])} {ordinal(match['under'])}{'' if match['over'] == '1' else 's'}",
        "/",
        starts=r"\d",
        when=r"/\d+(?:st|nd|rd|th)",
        near="/",
    ),
    rule(
        "ordinals from and to",
        r"(?<![\w.,])(?P<first>[1-9]\d{0,5})(?:st|nd|rd|th)\s?[-–]\s?(?P<last>[1-9]\d{0,5})(?:st|nd|rd|th)(?!\w)",
        _ordinals,
        "-–",
        starts=r"\d",
        when=_SUFFIX,
        flags=regex.IGNORECASE,
        near="-–",
    ),
    rule(
        "ordinal",
        r"(?<![\w.,])(?P<number>\d{1,3}(?:,\d{3})+|\d+)[ ]?(?<!\s)(?:st|nd|rd|th)(?!\w)",
        _ordinal,
        starts=r"\d",
        when=_SUFFIX,
        flags=regex.IGNORECASE,
        near="snrtSNRT",
    ),
)
RULES = (
    rule(
        "scientific notation",
        rf"""(?P<sign>{SIGN})?(?<![\w.,])(?P<base>\d+(?:\.\d+)?)(?:\s?[×x*·]\s?10(?:\^\(?)(?P<exponent>[-−+]?\d+)\)?
        |(?:(?<=\.\d+)[eE]|e)(?P<exponent>[-−+]?\d{{1,3}})|[eE](?P<exponent>[-−+]\d{{1,3}}))(?!\w|[.,]\d)""",
        _scientific,
        "eE^",
        starts=NUMERIC,
        when=r"\d\s?[eE×x*·^]",
        near="eE^×x*·",
    ),
    rule(
        "digits in groups",
        rf"""(?P<sign>{SIGN})?(?<!\d|\d[.,])(?P<value>{GROUPED}){END}""",
        _number,
        starts=NUMERIC,
        when=rf"\d{BLANK[:-1]},.]\d\d",
        near=",. '’\xa0\u2009\u202f",
    ),
    rule("fraction", rf"(?<![\w.,/$€£-]){FRACTION}(?![\w%])", _fraction, "/", starts=r"\d", when=r"\d/\d", near="/"),
    rule(
        "mark with a decimal point",
        r"(?<![\w.,/$€£-])(?P<over>\d{1,3}\.\d{1,2})/(?P<under>(?:4|5|10|20)(?:\.0)?|100)(?![\w/%]|[.,]\d)",
        _decimal_rating,
        "/",
        starts=r"\d",
        when=r"\d\.\d{1,2}/\d",
        near="/",
    ),
    rule(
        "verses",
        r"(?<![\w:.,])(?P<first>\d{1,3}):(?P<from>\d{1,3})[-–](?P<to>\d{1,3})(?![\w:]|[.,-]\d)",
        lambda match: f"{plain(match['first'])} {plain(match['from'])} to {plain(match['to'])}",
        ":",
        starts=r"\d",
        near=":",
    ),
    rule(
        "ratio of decimals",
        r"(?<![\w:.,])(?P<first>\d+(?:\.\d+)?)(?:(?<=\.\d+):|:(?=\d+\.\d))(?P<last>\d+(?:\.\d+)?)(?![\w:]|[.,]\d)",
        _ratio_of_decimals,
        ":",
        starts=r"\d",
        when=r"\d:\d",
        near=":",
    ),
    rule(
        "season",
        r"(?<![\w/.-])(?P<first>[12]\d{3})/(?P<last>\d{4}|\d\d)(?![\w/]|[.-]\d)",
        _season,
        "/",
        starts="12",
        near="/",
    ),
    rule(
        "ratio",
        r"(?<![\w:.,]|\d:\s)\d+(?:(?::\d+)+|[ ]:[ ]\d+)(?!\w|\s?:|[.,]\d)",
        _ratio,
        ":",
        starts=r"\d",
        when=r"\d\s?:\s?\d",
        near=":",
    ),
    rule(
        "range or score",
        rf"""(?P<sign>{SIGN})?(?<![\w.,-]){number("first")}{END}(?:[-–—−]|[ ][-–—−][ ])
        {number("last")}{END}(?![\w]|-\d)""",
        _range,
        "-–—−",
        starts=NUMERIC,
        when=r"\d\s?[-–—−]\s?[\d.]",
        near="-–—−",
    ),
    rule(
        "numbers in a row",
        r"(?<![\w.,/-])\d+(?:(?:,\d+)+|(?:/\d+)+|(?:-\d+)+)(?![\w]|[.,/-]\d)",
        _list,
        ",/-",
        starts=r"\d",
        when=r"\d[,/-]\d",
        near=",/-",
    ),
    rule("at least", r"(?<![\w.,])(?P<value>\d+)\+(?![\w])", _more, "+", starts=r"\d", near="+"),
    rule("number", rf"""(?P<sign>{SIGN})?(?<!\d|\d[.,])(?P<value>\d+(?:\.\d+)?|\.\d+){END}""", _number, starts=NUMERIC),
)


def _factors(match: Match) -> str | None:
    first, last = match["first"], match["last"]
    rises = float(first) < float(last)  # a Boeing 737-8X does not
    return f"{amount(first).words()} to {amount(last).words()}" if rises else None


_GROUPED_SIDE = r"[1-9]\d{0,2}(?:,\d{3})"
RANGES = (
    rule(
        "range of groups",
        rf"(?<![\w.,:$€£-])(?P<first>{_GROUPED_SIDE}*)(?P<mark>[-–—−:]|[ ][-–—−][ ])(?P<last>{_GROUPED_SIDE}+)"
        r"(?!\w|[.,-]\d)",
        lambda match: f"{amount(match['first']).words()} to {amount(match['last']).words()}",
        ",",
        starts=r"\d",
        when=r"\d ?[-–—−:] ?\d",
        near="-–—−: ",
    ),
    rule(
        "range of factors",
        r"(?<![\w.,-])(?P<first>\d{1,3}(?:\.\d+)?)[-–](?P<last>\d{1,3}(?:\.\d+)?)(?=[xX×kK](?!\w))",
        _factors,
        "-–",
        starts=r"\d",
        near="-–",
    ),
)
"""Ranges that are read before their sides could be read as numbers of their own."""
LAST_RESORT = rule("digit by digit", r"\d(?:[.,:/-]?\d)*", _last_resort, needs="0123456789", when=r"\d")
ION = rule(
    "ion",
    r"(?<=\p{L}|\p{L}\d|[)\]])(?P<charges>[²³⁴-⁹])?(?P<sign>[⁺⁻])(?![⁰¹²³⁴-⁹])",
    _charges,
    "⁺⁻",
)
"""The charges of an ion: Ca²⁺."""
TIMES_TEN = rule("times ten", r"(?<=\d)\s?[x×]\s?(?=10[⁻⁰¹²³⁴-⁹])", lambda match: " times ", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
POWER = rule(
    "power",
    r"(?P<base>(?<![\p{L}\p{N}]|\d\s|\d[.,])(?:(?!(?:km|mm|cm|nm|mi|ft|yd)[²³]|(?<=/)m[²³])\p{L}{1,3}|\d[\d.,]*)|\))(?P<exponent>[⁻⁺]?[⁰¹²³⁴-⁹]+)",
    _power,
    "⁰¹²³⁴⁵⁶⁷⁸⁹",
)
INDEX = rule("index", r"[⁻⁺]?[⁰¹²³⁴-⁹]+", _index, "⁰¹²³⁴⁵⁶⁷⁸⁹")
