"""Abbreviations that are read as words, and initialisms."""

from __future__ import annotations

import regex

from services.encode.text.borders.abbreviations import STARTERS
from services.encode.text.borders.words import words
from services.encode.text.reading.english.amounts import UNITS
from services.encode.text.reading.english.calendar import MONTHS
from services.encode.text.reading.rule import Match, rule

ABBREVIATIONS = {
    "Mr": "Mister",
    "Mrs": "Missus",
    "Ms": "Miz",
    "Dr": "Doctor",
    "Prof": "Professor",
    "Sr": "Senior",
    "Jr": "Junior",
    "St": "Saint",
    "vs": "versus",
}
"""English abbreviations whose full stop does not end a sentence."""
_WORDS = {
    **ABBREVIATIONS, "Rev": "Reverend", "Gen": "General", "Sgt": "Sergeant", "Capt": "Captain", "Lt": "Lieutenant",
    "Col": "Colonel", "Hon": "Honorable", "Gov": "Governor", "Sen": "Senator", "Rep": "Representative", "Mt": "Mount",
    "Ft": "Fort", "etc": "et cetera", "approx": "approximately", "dept": "department", "Dept": "Department",
    "Ave": "Avenue", "Blvd": "Boulevard", "Rd": "Road", "Inc": "Incorporated", "Ltd": "Limited", "Corp": "Corporation",
    "Co": "Company", "Bros": "Brothers", "est": "established", "min": "minute", "max": "maximum",
    "Ln": "Lane", "Pkwy": "Parkway", "Pres": "President", "Maj": "Major", "Adm": "Admiral", "Cpl": "Corporal",
    "Pvt": "Private", "Cmdr": "Commander",
}  # fmt: skip
_TITLED = words("Rev Gen Sgt Capt Lt Col Hon Gov Sen Rep Mt Ft Pres Maj Adm Cpl Pvt Cmdr")
INNER = {
    "incl": "including", "excl": "excluding", "avg": "average", "temp": "temperature", "acct": "account",
    "bal": "balance", "reg": "regular", "orig": "original",
}  # fmt: skip
"""Abbreviations that end with a stop only inside a sentence: a temp. of 5, but: He is a temp."""
_LATIN = {"e.g.": "for example", "i.e.": "that is", "E.g.": "For example", "I.e.": "That is", "eg.": "for example"}
_NO_STREETS = frozenset(("Mount", "Mt", "Port", "Fort", "Lake", "Cape", "Point", "Bay", *MONTHS))
_NUMBERED = regex.compile(r"\d(?:st|nd|rd|th)\s$")
_ADDRESS = regex.compile(r"\d\S*\s(?:\p{L}\.?\s)?(?:\p{Lu}[\p{Ll}'’]+\s){1,2}$")
_NAME_BEFORE = regex.compile(r"(\p{Lu}[\p{Ll}'’]+)\s$")
_CAPITALISED = regex.compile(r"\s\p{Lu}\p{Ll}")
_WAYS = {"Ave": "Avenue", "Blvd": "Boulevard", "Rd": "Road"}
_TITLES = {"Mr": "Mister", "Mrs": "Missus", "Dr": "Doctor", "Prof": "Professor", "Mt": "Mount"}
_STREETS = "St|Street|Ave|Avenue|Blvd|Boulevard|Rd|Road|Dr|Drive|Ln|Lane|Way|Pkwy|Parkway|Ct|Court|Pl|Place"
_WAYS_OF = {
    "N": "North", "S": "South", "E": "East", "W": "West", "NE": "Northeast", "NW": "Northwest", "SE": "Southeast",
    "SW": "Southwest",
}  # fmt: skip
_NO_WAYS = frozenset(("Maria", "Verum", "Caesar"))
_DAYS = {
    "Mon": "Monday", "Tue": "Tuesday", "Tues": "Tuesday", "Wed": "Wednesday", "Thu": "Thursday",
    "Thurs": "Thursday", "Fri": "Friday", "Sat": "Saturday", "Sun": "Sunday",
}  # fmt: skip
WEEKDAY_NAMES = frozenset(_DAYS)
_DAYS |= {name: name for name in _DAYS.values()}
_DAY = "|".join(sorted(_DAYS, key=len, reverse=True))
_TO = r"\.?(?:\s?[-–]\s?|—)"
_END = r"(?![\w.'’-])"
_DRIVE = regex.compile(r"(?:\b(?:on|at|to|off|of|down|from|along)|\d\S*)\s(?:\p{Lu}[\p{Ll}'’]+\s){1,2}$")
_AND_MRS = regex.compile(r"\s(?:&|and)\s(?:Mrs|Dr|Ms)\b")
_NAME = regex.compile(r"\s(\p{Lu}\p{L}*)")
_DEGREES = r"\b(?P<letters>Ph\.?D|M\.?D|B\.?Sc|M\.?Sc|LL\.?[BM]|B\.?A|M\.?A|D\.?Phil)\."
_NAMES = "|".join(word for word in _WORDS if word not in ("min", "max", "est", "Co"))


def _street(match: Match) -> str | None:
    """Read St. after a street's name or number as Street, else as Saint. Without a stop it stays where both may be."""
    text, start, end = match.string, match.start(), match.end()
    stopped = match.group().endswith(".")
    follows = _NAME.match(text, end)
    followed = _CAPITALISED.match(text, end) is not None
    if _NUMBERED.search(text, max(0, start - 8), start) is not None:
        return "Street"
    name = _NAME_BEFORE.search(text, 0, start)
    named = name is not None and name[1].casefold() not in STARTERS and (start > name.start(1) or not stopped)
    no_street = name is not None and name[1] in _NO_STREETS
    if _ADDRESS.search(text, 0, start) is not None and not (followed and no_street):
        return "Street"
    if stopped and named and follows is not None and follows[1].casefold() in STARTERS:
        return "Street."
    if followed:
        return "Saint" if stopped or not named or no_street else None
    return "Street" if named else "Saint" if stopped else None


def _word(match: Match) -> str | None:
    word = match["word"]
    if word == "Dr" and _DRIVE.search(match.string, 0, match.start()):
        follows = _NAME.match(match.string, match.end())
        if follows is None:
            return "Drive"
        if follows.group(1).casefold() in STARTERS:
            return "Drive."
    if word in _TITLED and not regex.match(r"\s\p{Lu}", match.string[match.end() :]):
        return None
    return _WORDS[word]


def _title(match: Match) -> str | None:
    """Read a title without a stop before a name, as in British English."""
    text, start, end, word = match.string, match.start(), match.end(), match["word"]
    if word == "Dr":
        name = _NAME_BEFORE.search(text, 0, start)
        if _DRIVE.search(text, 0, start) is not None and _CAPITALISED.match(text, end) is None:
            return "Drive"
        if name is not None and name[1].casefold() not in STARTERS:  # Elm Dr, Springfield
            return None
    both = word == "Mr" and _AND_MRS.match(text, end) is not None
    return _TITLES[word] if both or _CAPITALISED.match(text, end) is not None else None


def _way(match: Match) -> str | None:
    """Read Ave, Blvd and Rd after the name or number of a street."""
    text, start = match.string, match.start()
    name, follows = _NAME_BEFORE.search(text, 0, start), _NAME.match(text, match.end())
    named = name is not None and name[1].casefold() not in STARTERS
    if follows is not None and follows[1] in _NO_WAYS:
        return None
    return _WAYS[match["word"]] if named or _NUMBERED.search(text, max(0, start - 8), start) is not None else None


def _weekdays(match: Match) -> str:
    return f"{_DAYS[match['first']]} to {_DAYS[match['last']]}"


def _weekdays_listed(match: Match) -> str:
    """Read Mon/Wed/Fri as a list, and the names of Fri & Sat in full."""
    text = _LISTED_DAY.sub(lambda name: _DAYS[name.group(1)], match.group())
    *first, last = regex.split(r"\s?/\s?", text)
    return f"{', '.join(first)} and {last}" if first else text


def _inner(match: Match) -> str:
    word = match["word"]
    name = INNER[word.lower()]
    return name.capitalize() if word[0].isupper() else name


def _months(match: Match) -> str:
    first, last = (_MONTH_NAMES[match[side].rstrip(".")[:3]] for side in ("first", "last"))
    return f"{first} {'and' if match['joint'] == '/' else 'to'} {last}"


def _month(match: Match) -> str:
    """Read in Jan. and from Jan. through Mar., and keep the stop at the end of the sentence."""
    return _MONTH_NAMES[match["month"][:3]] + ("." if match["stop"] and match.end() == len(match.string) else "")


def _latin(match: Match) -> str:
    return _LATIN[match.group()]


def _initials(match: Match) -> str:
    return " ".join(match.group().replace(".", " ").split())


_WEEKDAYS = rf"(?<![\w-])(?P<first>{_DAY}){_TO}(?P<last>{_DAY})(?![\w-])(?:\.(?=,|:|\s+[\da-z]))?"
_LISTED_DAY = regex.compile(rf"\b({_DAY})\b\.?")
_AND = r"(?:\s?[/&]\s?|,\s(?:(?:and|or|&)\s)?|\s(?:and|or|through|to|thru)\s)"
_WEEKDAY_LIST = rf"(?<![\w.'’-])(?:{_DAY})\b(?:\.?{_AND}(?:{_DAY})\b){{1,6}}(?![\w'’-])(?:\.(?=,|:|\s+[\da-z]))?"
_WORKDAY = r"(?:Mon|Tues?|Wed|Thu(?:rs)?|Fri)"
_SINGLE_WEEKDAY = (
    rf"(?<=\b(?:[cC]losed|[oO]pen|[eE]very|[nN]ext|[lL]ast|[tT]his|[uU]ntil|[tT]ill|[bB]y|[oO]n|EOD|[dD]ue)\s)(?:(?P<day>{_WORKDAY})\b"
    r"|(?P<day>Sat|Sun)\b(?=[,;:!?)]|\.?$))(?![\w'’-])(?:\.(?=,|:|\s+[\da-z]))?"
    rf"|(?<![\w.'’-])(?P<day>{_WORKDAY}|Sat|Sun)\b\.?(?=\s(?:morning|afternoon|evening|night)s?\b)"
    rf"|(?:(?<=^|[;,]\s)(?P<day>{_WORKDAY})|(?<=^|[;,]\s)(?P<day>Sat|Sun)(?=\.?:\s?\d))\.?(?=:)"
)
_MONTH_NAMES = {name[:3]: name for name in MONTHS}
_MONTH = rf"(?:{'|'.join(MONTHS)}|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\b\.?)"
_MONTHS = (
    rf"(?<![\w.'’-])(?P<first>{_MONTH})(?P<joint>[-–/]|(?<=\b(?:[JFAD]\p{{Ll}}{{2}}|Mar|Sept?|Oct|Nov)\.?)\s[-–]\s)"
    rf"(?P<last>{_MONTH})(?![\w'’-])"
)
_SHORT = "Jan|Feb|Mar(?![ ]del)|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec"
_MONTH_ALONE = (
    rf"(?<=\b(?:[iI]n|[sS]ince|[eE]arly|[mM]id|[lL]ate|[uU]ntil|[tT]ill)[ -])(?P<month>{_SHORT})\b(?P<stop>\.)?"
    r"(?![\w'’-])|(?<=\b(?:[lL]ast|[nN]ext|[tT]his|[bB]y|through|Through|thru|Thru|[fF]rom|[tT]o|[oO]f|[aA]nd)[ ])"
    rf"(?P<month>(?:{_SHORT})(?=\.)|Feb|Aug|Sept|Oct|Nov|Dec)\b(?P<stop>\.)?(?![\w'’-])"
    rf"|(?<!\w)(?P<month>{_SHORT})\.(?P<stop>(?!))?(?=\s(?:through|thru|to|and)\s(?:{_SHORT}|May))"
)
_WEEKDAY_BEFORE_DATE = (
    r"(?<![\w.-])(?P<day>Mon|Tues?|Wed|Thu(?:rs)?|Fri|Sat|Sun)\b\.?(?=,?\s(?:"
    rf"{_MONTH}\s\d|\d{{1,2}}(?:st|nd|rd|th)?\s{_MONTH}|(?:at\s|@\s?)\d"
    r"|\d{1,2}(?:[:.]\d\d)?\s?(?:[aApP]\.?[mM]\b|[-–]\s?\d)|\d{1,2}[:/]\d))"
)
LEADING = (
    rule("degree", _DEGREES, lambda match: match["letters"].replace(".", ""), "."),
    rule("for example", r"\b(?:[eE]\.g\.|[iI]\.e\.)", _latin, ".", when=r"\.[eg]\."),
    rule(
        "direction",
        rf"(?<=^|\d\S*\s|,\s|\b(?:on|onto|at|to|of|and|from|near|off|along|down|up|take)\s)(?P<way>[NSEW][EW]?)\.?"
        rf"(?=\s(?:\p{{Lu}}[\p{{Ll}}'’]+|\d{{1,3}}(?:st|nd|rd|th))\s(?:\p{{Lu}}\p{{Ll}}+\s)?(?:{_STREETS})\b)",
        lambda match: _WAYS_OF[match["way"]],
        "NSEW",
        words=_STREETS.lower().split("|"),
    ),
    rule(
        "century after an ordinal",
        r"(?<=\d(?:st|nd|rd|th)[ -])c(?:\.(?!$)|(?=\.$))",
        lambda match: "century",
        ".",
        when=r"(?:st|nd|rd|th)[ -]c\.",
    ),
    rule(
        "floor",
        r"(?<=\d(?:st|nd|rd|th)[ ])[Ff]l\b\.?(?=$|[,;)]|\s)",
        lambda match: "Floor" if match.group()[0] == "F" else "floor",
        words=("fl",),
    ),
    rule("street or saint", rf"\bSt(?:\.|{_END})", _street, words=("st",)),
    rule("title without a stop", rf"\b(?P<word>{'|'.join(_TITLES)}){_END}", _title, words=[*map(str.lower, _TITLES)]),
    rule("way without a stop", rf"\b(?P<word>{'|'.join(_WAYS)}){_END}", _way, words=[*map(str.lower, _WAYS)]),
    rule("versus", r"(?<![\w.'’])vs(?![\w.'’])", lambda match: "versus", words=("vs",)),
    rule(
        "versus in law",
        r"(?<=\p{Lu}[\p{L}.'’]{1,30}\s)v(?:\.|\b)(?=\s\p{Lu}\p{Ll})",
        lambda match: "versus",
        words=("v",),
    ),
    rule("weekdays from and to", _WEEKDAYS, _weekdays, "-–—"),
    rule("workdays", r"(?<![\w-])M[-–]F(?=:?,?\s\d)", lambda match: "Monday to Friday", "-–", when=r"M[-–]F:?,?\s\d"),
    rule("months from and to", _MONTHS, _months, "-–—/"),
    rule("month alone", _MONTH_ALONE, _month, words=[*map(str.lower, _MONTH_NAMES), "sept"]),
    rule("weekdays", _WEEKDAY_LIST, _weekdays_listed, words=[name.lower() for name in _DAYS]),
    rule("weekday alone", _SINGLE_WEEKDAY, lambda match: _DAYS[match["day"]], words=[name.lower() for name in _DAYS]),
    rule(
        "weekday",
        _WEEKDAY_BEFORE_DATE,
        lambda match: _DAYS[match["day"]],
        words=[name.lower() for name in _DAYS],
        when=r"\d",
    ),
    rule(
        "abbreviation inside a sentence",
        rf"\b(?P<word>{'|'.join(INNER)})\.(?=\s[\p{{Ll}}\d$€£~(])",
        _inner,
        ".",
        words=INNER,
        flags=regex.IGNORECASE,
    ),
    rule(
        "unit after an article",
        r"(?<=\b(?:a|per)\s)(?P<unit>yr|mo|wk|hr|lb|gal|oz)\b(?:\.(?=,|\)|\s[a-z(]))?",
        lambda match: UNITS[match["unit"]][0],
        words=("yr", "mo", "wk", "hr", "lb", "gal", "oz"),
    ),
    rule("each", r"(?<=\d\s)ea\b(?:\.(?=[,;)]|\s[a-z(]))?", lambda match: "each", words=("ea",)),
    rule("abbreviation", rf"\b(?P<word>{_NAMES})\.", _word, ".", words=[word.lower() for word in _WORDS]),
)
WITHOUT_STOP = r"(?:(?<=\bS)t|(?<=\bD)r|(?<=\bM)(?:rs?|t)|(?<=\bA)ve|(?<=\bB)lvd|(?<=\bR)d|(?<=\bP)rof)(?![\w.'’])"
"""Capitalised abbreviations that the rules read without a stop too, after their first letter."""
WEEKDAYS = rf"(?:{_DAY}){_TO}(?:{_DAY})"
LAST_MONTH = rf"[-–/]\s?(?:{'|'.join(_MONTH_NAMES)})"
"""The end of a range of months."""
SHORT_MONTH = (
    r"[JFMASOND](?:(?<=J)(?:an|u[nl])|(?<=F)eb|(?<=M)ar|(?<=A)(?:pr|ug)|(?<=S)ept?|(?<=O)ct|(?<=N)ov|(?<=D)ec)"
)
SHORT_MONTH += r"\b"
SHORT_WEEKDAY = r"[MTWFS](?:(?<=\bM)on|(?<=\bT)(?:ues?|hu(?:rs)?)|(?<=\bW)ed|(?<=\bF)ri|(?<=\bS)(?:at|un))\b"
INITIALS = rule("initials", r"\b(?:\p{L}\.){2,}", _initials, ".", when=r"\.[^\W\d_]\.")
