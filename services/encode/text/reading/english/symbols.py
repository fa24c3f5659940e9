"""Abbreviations before numbers and names, and signs of arithmetic."""

from __future__ import annotations

import unicodedata

import regex

from services.encode.text.borders.words import words
from services.encode.text.reading.english.amounts import counts
from services.encode.text.reading.english.calendar import MONTHS
from services.encode.text.reading.rule import Match, rule
from services.encode.text.reading.words import cardinal, label

_OPERATORS = {
    "+": "plus", "-": "minus", "−": "minus", "–": "minus", "*": "times", "×": "times", "·": "times", "⋅": "times",
    "÷": "divided by", "/": "divided by", "=": "equals", "==": "equals", "≠": "is not equal to",
    "!=": "is not equal to",
    "^": "to the power of", "**": "to the power of", "<": "is less than",
    ">": "is greater than",
    "+=": "plus equals", "-=": "minus equals",
    "<=": "is at most", ">=": "is at least", "≤": "is at most", "≥": "is at least", "≈": "is about",
    "±": "plus or minus", "~": "is about",
}  # fmt: skip
_COMPARED = {"<": "less than", ">": "more than", "<=": "at most", ">=": "at least", "≤": "at most", "≥": "at least"}
_ARITHMETIC = regex.compile(
    r"[=+×÷*^]|\b(?:calculate|compute|equals?|minus|plus|times|subtract|divided|what\s+is|what['’]s|solve)\b",
    regex.IGNORECASE,
)
_ASKED = regex.compile(r"\b(?:calculate|compute|minus|subtract|what\s+is|what['’]s|solve)\b", regex.IGNORECASE)
_TERM = r"\d[\d.,]*\p{L}?"
_TERMS = rf"{_TERM}(?:\s?[-−+]\s?{_TERM})*"
_BEFORE_TERM = regex.compile(
    r"(?:(?P<equals>[=≈]|\b(?i:what\sis|what['’]s|calculate|compute|solve)|\b(?:equals|is\sabout))|[×÷^*√+]"
    rf"|\b(?:times|plus|minus|divided\sby|to\sthe\spower\sof))\s?\(?(?P<terms>{_TERMS})$"
)
_AFTER_TERM = regex.compile(
    rf"{_TERMS}(?:\)+\s?[×*÷^+=\d]|\)*\s?[=÷^≈≠≤≥<>]|\s?[×*]\s?[\d(]"
    r"|\s(?:equals|squared|cubed|is\s(?:about|not\sequal|at\s(?:most|least)|less|greater))\b"
    r"|\s(?:times|plus|minus|divided\sby|to\sthe\spower\sof)\s(?:[\d(]|[b-z](?!\p{L})))"
)
"""An operator before or after the terms around a dash, which is then a minus: 2-3 times a day is none."""
_LAST_TERM = regex.compile(r"\d[\d.,]*")
_FORMULA = regex.compile(r"[=×÷^√≤≥]|\b(?:equals|times|plus|divided\sby|squared|cubed)\b")
_NUMBERED = (
    "tracking|order|account|acct|phone|telephone|cell|fax|invoice|confirmation|reference|ref|case|ticket|flight|room|card|"
    "item|part|serial|model|member|customer|policy|claim|contact|routing|check|license"
)
"""What has a number that a single # names: your tracking # is. Before others it begins a comment of code."""
_IS = regex.compile(r"\b(?:is|are|be|was|were)\s*$")
_NAME_BEFORE = regex.compile(r"(\p{L}+)[\p{L}\d.-]*$")
_MODEL = regex.compile(r"\d+(?:\.\d+)?(\p{L})(?!\p{Ll})")
"""What follows a hyphen in the name of a model: Qwen2.5-72B, i7-13700K; 2x2-3y is none."""
_DECIMAL_BEFORE = regex.compile(r"\.\d+$")
_TIMES = {"wk": "week", "mo": "month", "yr": "year", "hr": "hour", "min": "minute", "sec": "second"}
_MEASURES = {
    "L": "liter", "dL": "deciliter", "mL": "milliliter", "ml": "milliliter", "uL": "microliter", "µL": "microliter",
    "μL": "microliter", "mm³": "cubic millimeter", "cubic millimeters": "cubic millimeter", "kg": "kilogram",
    "mol": "mole",
}  # fmt: skip
_LAST_WORDS = (
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|[a-z]+teen|twenty|thirty|forty|fifty|sixty|seventy|"
    "eighty|ninety|hundred|thousand|million|billion|[kK]"
)
"""The ends of a number that has been read."""
_MONTHS = "|".join(MONTHS)
_DAY_WORD = "(?:first|second|third|(?:four|fif|six|seven|eigh|[n]in|ten|eleven|twelf|teen|tie)th)"
_YEAR_WORDS = (
    r"(?:ten|eleven|twelve|[a-z]+teen|twenty|two\sthousand)"
    rf"(?:[\s-](?:and|oh|{_LAST_WORDS.removesuffix('|[kK]')})){{0,4}}"
)
_BOOKS = words(
    """
    genesis gen exodus leviticus deuteronomy joshua judges ruth samuel kings chronicles ezra nehemiah esther psalm
    psalms proverbs ecclesiastes isaiah jeremiah lamentations ezekiel daniel hosea joel amos jonah micah zechariah
    mt mk lk jn quran koran ps malachi matthew matt mark luke john acts romans corinthians galatians ephesians
    philippians colossians thessalonians timothy titus hebrews james peter jude revelation surah
    """
)
_SHORT_BOOKS = "cor|rom|gal|eph|phil|col|heb|rev|isa|jer|prov|eccl|deut|lev|josh|tim|pet"
"""Names of books that are other words without a stop."""
_PLACES = {
    "p": "page", "pp": "pages", "pg": "page", "pgs": "pages",
    "vol": "volume", "ch": "chapter", "fig": "figure", "figs": "figures", "eq": "equation",
    "sec": "section", "art": "article", "para": "paragraph", "approx": "approximately", "ca": "circa",
    "apt": "apartment", "rm": "room", "bldg": "building", "fl": "floor",
    "ste": "suite", "rt": "route", "rte": "route", "hwy": "highway",
    "ver": "version", "ed": "edition", "nos": "numbers", "no": "number", "tel": "telephone", "ext": "extension",
    "vols": "volumes", "chs": "chapters", "fn": "footnote", "cat": "category", "ps": "psalm", "c": "circa",
}  # fmt: skip


def _operator(match: Match) -> str | None:
    sign = match["sign"]
    if sign == "/" and not _ARITHMETIC.search(match.string):
        return " slash "
    if sign in "-−–" and not (_subtracts(match) or _ASKED.search(match.string)):
        return None
    words = _OPERATORS[sign]
    if words.startswith("is ") and _IS.search(match.string, max(0, match.start() - 8), match.start()):
        words = words.removeprefix("is ")
    return f" {words} "


def _minus(match: Match) -> str | None:
    text, start, end = match.string, match.start(), match.end()
    model = _MODEL.match(text, end) if match["sign"] == "-" else None
    name = _NAME_BEFORE.search(text, max(0, start - 24), start) if model is not None else None
    if model is not None and name is not None and (len(name[1]) > 1 or model[1].isupper()):
        return ", " if _DECIMAL_BEFORE.search(text, max(0, start - 6), start) else " "
    return " minus " if _subtracts(match) else None


def _minus_in_formula(match: Match) -> str | None:
    text = match.string
    numbers = text[match.start() - 1].isdigit() and text[match.end()].isdigit()
    return " minus " if _FORMULA.search(text) and not numbers else None


def _subtracts(match: Match) -> bool:
    """Return whether an expression continues on one side of the dash between two numbers: 10-5 = 5."""
    text, start, end = match.string, match.start(), match.end()
    if _AFTER_TERM.match(text, end) is not None:
        return True
    before, last = _BEFORE_TERM.search(text, max(0, start - 60), start), _LAST_TERM.match(text, end)
    if before is None or last is None or counts(text, last.end()):
        return False
    first = _LAST_TERM.match(before["terms"])
    if before["equals"] is None or first is None or text[end - 1] == " ":
        return True
    return float(first.group().replace(",", "").rstrip(".")) > float(last.group().replace(",", "").rstrip("."))


def _compared(match: Match) -> str:
    return f"{_COMPARED[match['sign']]} "


def _place(match: Match) -> str:
    word = match["word"]
    name = _PLACES[word.lower()]
    return f"{name.capitalize() if word[0].isupper() else name} "


def _provision(match: Match) -> str:
    """Read the parts of a provision after each other: Article 5(2)(a) -> Article 5, 2, A."""
    parts = regex.findall(r"\w+", match["parts"])
    said = (label(part) if part.isdigit() else part.upper() if len(part) == 1 else part for part in parts)
    return ", ".join((match["head"], *said))


def _verses(match: Match) -> str:
    words = f"{cardinal(match['chapter'])} {cardinal(match['first'])}"
    words += f" to {cardinal(match['last'])}" if match["last"] else ""
    return f"{words} {match['half']}" if match["half"] else words


def _with(match: Match) -> str:
    return "without" if match["out"] else "within" if match["in"] else "with"


def _mathematics(match: Match) -> str:
    before = " " if match.start() else ""
    after = " " if match.end() < len(match.string) else ""
    return f"{before}{MATHEMATICS[match.group().strip()]}{after}"


def _greek(match: Match) -> str | None:
    """Read a Greek letter among others, as in formulas; words in Greek stay."""
    letter = match["letter"]
    name = unicodedata.name(letter).removeprefix("GREEK SMALL LETTER ").removeprefix("GREEK CAPITAL LETTER ")
    return None if " " in name else name.lower() if letter.islower() else name.title()


MATHEMATICS = {
    "∞": "infinity", "∈": "in", "∉": "not in", "∑": "the sum of", "∏": "the product of", "∫": "the integral of",
    "∂": "partial", "∇": "nabla", "∀": "for all", "∃": "there exists", "∪": "union", "∩": "intersection",
    "⊂": "is a subset of", "⊆": "is a subset of", "∝": "is proportional to", "≡": "is equivalent to",
    "∅": "the empty set", "∧": "and", "∨": "or", "¬": "not", "∛": "cube root of", "∜": "fourth root of",
}  # fmt: skip
GREEK = "αβγδεζηθικλμνξοπρσςτυφχψωΓΔΘΛΞΠΣΦΨΩ"
STAR = rule(
    "star",
    r"(?<=\b(?i:press|pressing|hit|dial|enter|the|or)\s)\*(?=[.,;]?(?:\s\p{Ll}{2}|$))|(?<=\b(?i:select)\s)\*(?![\w*])|(?<=[A-Za-z]\()\*(?=\))|(?<![\w*/])\*(?=\.[a-z]{1,5}\d?(?![\w*]))",
    lambda match: "star",
    "*",
)
"""The star of queries and of names of files."""
_KEYS = {"ctrl": "Control", "cmd": "Command", "opt": "Option", "win": "Windows"}
KEYS = rule(
    "keys",
    r"(?<!\w)(?P<key>ctrl|control|cmd|command|alt|option|opt|shift|win|windows|super|meta|fn)\s?\+\s?(?=[^\s+.,!?)])",
    lambda match: f"{_KEYS.get(match['key'].lower(), match['key'])} plus ",
    "+",
    flags=regex.IGNORECASE,
)
"""Keys that are pressed together: Ctrl+C."""
OPERAND = r"[\p{N}\p{L})\]|!²³⁰-⁹]"
RULES = (
    rule("plus or minus", r"\+/[-−–]\s?(?=[\d.$€£])", lambda match: "±", "+"),
    rule(
        "number sign without a number",
        rf"(?<=\b(?i:{_NUMBERED})\s)\#(?=\s\p{{Ll}}|[:.?]?$|:\s)|(?<=\b(?i:the)\s)\#(?=\sof\b)",
        lambda match: "number",
        "#",
    ),
    rule("number sign", r"(?:(?<!\b[A-Za-z])[\#№]\s?|[\#№])(?=\d)(?!\d+\p{L}{3})", lambda match: "number ", "#№"),
    rule(
        "abbreviation before a number",
        r"\b(?<!\b(?:Civ|Crim|App|Evid)\.\s)(?P<word>pgs?|pp?|bldg|fl|vol|ch|figs?|eq|sec|art|para|approx|ca|ver|ed|nos?|tel|ext|apt|rm|ste|rte?|hwy|vols|chs|fn|(?-i:Cat|Ps)|c(?=\.\s?\d{3,4}(?!\d|[.,]\d)|\.\d{1,3},\d{3}\b))\.:?\s?(?=\d|\(\d)"
        rf"|(?<=\b(?:{_NUMBERED})\s)(?P<word>no)\.\s(?=[A-Z\d]*-?[A-Z]*\d)",
        _place,
        ".",
        when=r"\.:?\s?[\d(A-Z]",
        flags=regex.IGNORECASE,
    ),
    rule(
        "abbreviation without a stop",
        r"(?<![\w.])(?P<word>pp|[aA]pprox|Apt|[hH]wy|Rte|Ste|Vol)\s(?=\d|(?<=pprox\s)[$€£~])",
        _place,
        when=r"(?:pp|pprox|Apt|wy|Rte|Ste|Vol)\s[\d$€£~]",
    ),
    rule(
        "born and died",
        r"(?<=\(|[,;]\s)(?P<word>[bd])\.\s(?=\d{4}(?!\d)|\d{1,2}\s\p{Lu})",
        lambda match: "born " if match["word"] == "b" else "died ",
        ".",
        when=r"[bd]\.\s\d",
    ),
    rule(
        "minute of a match",
        r"(?<![\w.,+])(?P<minute>\d{2,3})(?P<mark>['’])?\+(?P<added>\d{1,2})(?(mark)|['’])(?=[\s,.;:)]|$)",
        lambda match: f"{cardinal(match['minute'])} plus {cardinal(match['added'])}",
        "+",
        starts=r"\d",
        near="+'’",
    ),
    rule("section sign", r"§+\s?", lambda match: "sections " if "§§" in match.group() else "section ", "§"),
    rule(
        "parts of a provision",
        r"\b(?P<head>(?:article|section|rule|clause|regulation|paragraph|schedule|act|title)s?\s\d{1,4}[A-Z]?)"
        r"(?P<parts>(?:\((?:\d{1,3}|[a-z]{1,4}|[A-Z])\))+)(?!\w)",
        _provision,
        "(",
        when=r"\d[A-Z]?\(",
        flags=regex.IGNORECASE,
    ),
    rule(
        "verses of a book",
        rf"(?<=\b(?:(?:{'|'.join(sorted(_BOOKS))})\.?|(?:{_SHORT_BOOKS})\.)\s)(?P<chapter>\d{{1,3}}):(?P<first>[1-9]\d{{0,2}})(?:[-–](?P<last>\d{{1,3}}))?"
        r"(?P<half>[ab])?(?!\w|[:.,-]\d|\s?[AaPp]\.?[Mm]\b)",
        _verses,
        ":",
        starts=r"\d",
        words=_BOOKS | frozenset(_SHORT_BOOKS.split("|")),
        near=":",
        flags=regex.IGNORECASE,
    ),
    rule("times a power of ten", r"(?<=\d)\s?[×x*·⋅]\s?(?=10\sto\sthe\spower\sof\b)", lambda match: " times ", "×x*·⋅"),
    rule(
        "paragraph sign",
        r"¶+\s?(?=\d)",
        lambda match: "paragraphs " if "¶¶" in match.group() else "paragraph ",
        "¶",
    ),
    rule(
        "key of a telephone",
        r"(?<=\b(?i:press|pressing|hit|enter|dial|by|the|or|then)\s)\#(?=[.,;]?$|[.,;]\s|\s(?:key|sign|or|to|for|when|at|and|now)\b)|(?<=,\s)\#(?=\s(?:to|for)\s)"
        r"|(?<=\b(?i:press|pressing|hit|enter|dial|or)\s\d{1,4})\#(?![\w\#])",
        lambda match: "hash",
        "#",
    ),
    rule("hashtag", r"(?<![\w&#])\#(?=\p{L}|\d+\p{L}{3})", lambda match: "", "#"),
    rule(
        "comparison",
        r"(?<![\p{L}\p{N}<>=)])(?P<sign><=|>=|[<>≤≥])(?:(?<=(?:^|[,;(:])\s*[<>≤≥]=?)\s)?(?=[\d$€£.−-])",
        _compared,
        "<>≤≥",
    ),
    rule("about", r"(?<![\w.)\]~])[~≈](?=\d+(?:\.\d+)?[A-Za-z])", lambda match: "about ", "~≈"),
    rule("root", r"√\s?", lambda match: "square root of ", "√"),
    rule(
        "slash before a number",
        r"(?P<lens>(?<=(?<!/)\bf)/(?=\d{1,2}(?:\.\d)?(?!\w)))|(?<=\p{L})(?<!/min)/(?=\d)",
        lambda match: " " if match["lens"] else " slash ",
        "/",
    ),
    rule(
        "equal to a version",
        r"(?<=\p{L})==(?=\d)|(?<=\p{L}{2})(?P<sign>[<>]=)(?=\d)",
        lambda match: " equals " if match["sign"] is None else f" {_COMPARED[match['sign']]} ",
        "=",
    ),
    rule(
        "symbol of a share",
        r"(?<![\w$=:/])\$(?!(?:PATH|HOME|USER|PWD|SHELL|LANG|TERM|TMP)\b)(?=[A-Z]{1,5}(?![\w$-]))",
        lambda match: "",
        "$",
    ),
    rule(
        "value of a name",
        r"(?<=[\p{L}_][\w.]{0,30})=(?=[\w\"'\[]|[-−.]\d)",
        lambda match: " equals ",
        "=",
    ),
    rule("plus plus", r"(?<=\b[A-Za-z])\+\+", lambda match: " plus plus", "+"),
)
ARITHMETIC = (
    rule(
        "spaced operator",
        rf"(?<={OPERAND})\s+(?:(?P<sign>[+-]=|==|!=|<=|>=|\*\*|[=+*×÷<>≤≥≠≈^±·⋅])\s+(?=[\p{{N}}\p{{L}}(+−$€£√-]|\.\d)"
        r"|(?P<sign>==?|!=)\s+(?=[\[{?\"'“]))",
        _operator,
        "=+*×÷<>≤≥≠≈^±·⋅",
    ),
    rule(
        "operator between numbers",
        r"(?<=[\p{N})])(?P<sign>==|!=|<=|>=|\*\*|[=+*×÷<>≤≥≠^±·⋅])(?=[\p{N}(−√-]|\.\d)",
        _operator,
        "=+*×÷<>≤≥≠^±·⋅",
    ),
    rule(
        "operator after a letter",
        r"(?<=(?<![\p{L}\p{N}])\d{0,3}\p{L}[²³]?|\b(?:squared|cubed)|\))(?P<sign>\*\*|[=+*×÷<>≤≥≠^])(?=\p{N}|\.\d|\p{L}{1,3}(?![\p{L}\p{N}])|\()"
        r"|(?<=\p{L}|\p{N})(?P<sign>\^)(?=\p{N}|\p{L}(?![\p{L}\p{N}]))",
        _operator,
        "=+*×÷<>≤≥≠^",
    ),
    rule(
        "minus before a letter",
        r"(?:(?<=[(=^<>≤≥+×÷]\s?)[-−]\s?|(?<=,\s?)[-−])(?=\p{L}(?!\p{L})|(?:log|ln|sin|cos|tan|exp|max|min)\b)"
        r"|(?<=\bequals\s+)[-−]\s?(?=(?:log|ln|sin|cos|tan|exp|max|min)\b)",
        lambda match: "minus " if match.string[match.start() - 1] in "( " else " minus ",
        "-−",
    ),
    rule(
        "minus between letters",
        r"(?:(?<=(?<!\p{L})[\p{L}\d)]|squared|cubed)\s[-−]\s|(?<=squared|cubed|\)|(?<!\p{L})[a-z])[-−])"
        r"(?=\p{L}(?!\p{L})|√|\d)",
        _minus_in_formula,
        "-−",
    ),
    rule("minus", r"(?<=\d)(?P<sign>[-−])(?=\d)", _minus, "-−"),
    rule("minus or divided by", r"(?<=\d)\s(?P<sign>[-−–/])\s(?=\d)", _operator, "-−–/", when=r"\d\s[-−–/]\s\d"),
)
REST = (
    rule("times as a factor", r"(?<=[a-z])×(?=\s(?:\p{L}{2}|a\s)|[.,;:!?)]|$)", lambda match: " times", "×"),
    rule(
        "minutes added", r"(?<=[a-z])\+(?=(?:[a-z]+-)?(?:first|second|third|[a-z]+th)\b)", lambda match: " plus ", "+"
    ),
    rule(
        "by",
        r"(?<=\b(?:milli|centi|kilo)?(?:meters?|feet|inch(?:es)?|pixels?|yards?))\s?[x×]\s?(?=\w)",
        lambda match: " by ",
        "x×",
    ),
    rule(
        "sign of mathematics",
        f"\\s?[{''.join(MATHEMATICS)}]\\s?",
        _mathematics,
        "".join(MATHEMATICS),
    ),
    rule(
        "per a measure",
        rf"(?<=\b(?:{_LAST_WORDS}|squared|cubed|cells|copies|colonies))/"
        rf"(?P<per>{'|'.join(_MEASURES).replace(' ', '[ ]')})(?![\w/])",
        lambda match: f" per {_MEASURES[match['per']]}",
        "/",
    ),
    rule("Greek letter", r"(?<!\p{Greek})(?P<letter>[α-ωΓ-Ω])(?!\p{Greek})", _greek, GREEK),
    rule("with and without", r"(?<![\w/])[wW]/(?:(?P<out>o)|(?P<in>in))?(?=\s)", _with, "/"),
    rule("backslash", r"(?<=^|\w|\s)\\(?=\w|\s|$)", lambda match: " ", "\\"),
    rule("and", r"\s?&+\s?", lambda match: " and ", "&"),
    rule("at", r"(?<=\w)\s?@\s?(?=\w)|(?<!\S)@(?!\S)", lambda match: " at ", "@"),
    rule("plus", r"(?<=\w)\+(?![\w+])", lambda match: " plus", "+"),
    rule("plus before a number", r"(?<![\w+])\+(?=\w)", lambda match: "plus ", "+"),
    rule(
        "per",
        r"(?<=\p{L})/(?P<per>day|hour|hr|minute|min|second|sec|week|wk|month|mo|year|yr|person|user|night|serving|tablet|dose|bottle|token|query)\b",
        lambda match: f" per {_TIMES.get(match['per'], match['per'])}",
        "/",
    ),
    rule("per a number", r"(?<=\b(?:cents?|dollars?|euros?|pounds?|pence|yen))/(?=\w)", lambda match: " per ", "/"),
    rule(
        "dates from and to",
        rf"(?<={_DAY_WORD}(?:,\s{_YEAR_WORDS})?)(?:\s[-–—]\s|[-–])(?=(?:[A-Z][a-z]+day,\s)?(?:{_MONTHS})\s)"
        rf"|(?<=\sof\s(?:{_MONTHS})(?:,\s{_YEAR_WORDS})?)(?:\s[-–—]\s|[-–])(?=(?:[A-Z][a-z]+day,?\s)?the\s[\w-]+\sof\s(?:{_MONTHS})\b)",
        lambda match: " to ",
        "-–—",
    ),
    rule(
        "speed without a number",
        r"(?<![\w/])(?P<unit>km/h|m/s)(?![\w²³^/])",
        lambda match: "kilometers per hour" if match["unit"] == "km/h" else "meters per second",
        "/",
        when="km/h|m/s",
    ),
    rule("percent sign", r"(?<![\w%])%(?=\s\p{L})", lambda match: "percent", "%"),
)
