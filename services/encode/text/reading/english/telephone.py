"""Telephone numbers, and other numbers in groups that are read digit by digit: cards, ISBN."""

from __future__ import annotations

import regex

from services.encode.text.reading.rule import Match, rule
from services.encode.text.reading.words import YEARS, grouped, spelled

_SEPARATORS = regex.compile(r"[-. ]")
_THOUSANDS = regex.compile(r"[1-9]\d{0,2}(?:[ .]\d{3})+")
_RUNS = regex.compile(r"\d+|\D+")
_GROUPS = regex.compile(r"\d+")
_CONTEXT = regex.compile(
    r"\b(?:call|calling|phone|telephone|tel|dial|text|texting|fax|mobile|cell|hotline|helpline|whatsapp|sms|number|"
    r"contact|reach|ring|landline|toll[- ]free|card|iban|account)\b[^.!?\d]{0,25}$",
    regex.IGNORECASE,
)
_EXTENSION = r"(?:,?\s*(?:ext\.?|extension|x|\#)\s?(?P<extension>\d{1,6})(?!\w))?"
_AFTER = r"(?![\w]|[-.,/]\d)"


def _said(match: Match, groups: list[str]) -> str:
    words = grouped(groups)
    return f"{words}, extension {spelled(match['extension'])}" if match["extension"] else words


def _international(match: Match) -> str | None:
    groups = _GROUPS.findall(match["number"])
    if not 7 <= sum(map(len, groups)) <= 15 or groups[-1] == "000":
        return None
    return f"plus {_said(match, groups)}"


def _national(match: Match) -> str | None:
    written = match["number"]
    groups = _GROUPS.findall(written)
    lengths = tuple(map(len, groups))
    digits = sum(lengths)
    if not 7 <= digits <= 19 or all(len(group) == 4 and int(group) in YEARS for group in groups):
        return None
    certain = (
        lengths in ((3, 3, 4), (1, 3, 3, 4), (4, 4, 4, 4), (4, 6, 5), (4, 6, 4))
        or (lengths == (3, 4) and "-" in written)
        or (lengths == (3, 2, 4) and "-" in written)
        or ("(" in written[:3] and 2 <= lengths[written[0] != "("] <= 5)
        or (groups[0][0] == "0" and len(groups[0]) > 1 and digits >= 7 and "." not in written)
        or (lengths == (4, 3, 3) and groups[0] in ("1300", "1800"))
        or (len(groups) > 2 and len(set(_SEPARATORS.findall(written))) == 1 and not _THOUSANDS.fullmatch(written))
        or (groups[0] in ("978", "979") and digits == 13 and "-" in written)
    )
    if not certain and not _CONTEXT.search(match.string, max(0, match.start() - 60), match.start()):
        return None
    return _said(match, groups)


def _vanity(match: Match) -> str:
    parts = match.group().split("-")
    return ", ".join(" ".join(spelled(run) if run.isdigit() else run for run in _RUNS.findall(part)) for part in parts)


def _account(match: Match) -> str | None:
    """Read an IBAN, group by group."""
    if sum(map(str.isdigit, match["number"])) < 8:
        return None
    groups = match["number"].split(" ")
    return ", ".join(
        " ".join(spelled(run) if run.isdigit() else " ".join(run) for run in _RUNS.findall(group)) for group in groups
    )


def _star(match: Match) -> str | None:
    if match["mark"] == "#" and not match["end"]:
        return None
    first = "star" if match["mark"] == "*" else "hash"
    return f"{first} {spelled(match['number'])}{' hash' if match['end'] else ''}"


def _emergency(match: Match) -> str:
    return spelled(match["number"].replace("-", ""))


RULES = (
    rule("code of a telephone", r"(?<!\S)(?P<mark>[*\#])(?P<number>\d{1,4})(?P<end>\#)?(?![\w*])", _star, "*#"),
    rule(
        "number of an account",
        r"(?<![\w-])(?P<number>[A-Z]{2}\d\d(?:[ ]?[A-Z0-9]{4}){2,7}(?:[ ]?[A-Z0-9]{1,3})?)(?![\w-])",
        _account,
        starts="A-Z",
        when=r"[A-Z]{2}\d\d ?[A-Z0-9]{4} ?[A-Z0-9]{4}",
    ),
    rule(
        "telephone number with country",
        rf"""(?<![\w+])(?P<number>\+\s?\(?\d{{1,4}}\)?(?:[\s./-]{{0,2}}\(?\d{{1,12}}\)?){{1,7}}){_EXTENSION}{_AFTER}""",
        _international,
        "+",
        starts="+",
        near="+(",
    ),
    rule(
        "telephone number in letters",
        r"(?<![\w-])(?:1-)?8\d\d-(?:\d{1,3}-)?(?=\d*[A-Z][A-Z\d]*[A-Z]\d*[A-Z]|[A-Z]{3}|[A-Z]{1,2}-[A-Z]{3})[A-Z\d]+(?:-[A-Z0-9]+)*(?![\w-])",
        _vanity,
        "8",
        starts="18",
        when=r"8\d\d-",
        near="-",
    ),
    rule(
        "telephone number",
        rf"""(?<![\w.,:/+$€£¥-]|\d[ ])
        (?P<number>97[89]-\d{{1,5}}-\d{{1,7}}-\d{{1,6}}-\d
        |(?:(?:1[-.\s])?\(\d{{2,5}}\)\s?-?|\d{{1,5}}[-./ ])(?:\d{{1,6}}[-. ]){{0,5}}\d{{2,9}})
        {_EXTENSION}{_AFTER}(?!\s?(?:%|°|€))""",
        _national,
        starts=r"\d(",
        when=r"\d(?:\D{0,3}\d){6}",
    ),
    rule(
        "short telephone number",
        r"(?<=\b(?:call|dial|text|ring|phone|calling|dialing|dialling)[ ](?:\d{3,6}[ ]or[ ])?)"
        r"(?P<number>\d-\d-\d|\d{3,6})(?![\w-]|[.,:/]\d|[ ]\d{3}\b|\s?(?:[%‰°]|(?:km|kg|GB|MB|mph)\b))",
        _emergency,
        starts=r"\d",
        flags=regex.IGNORECASE,
        words=("call", "dial", "text", "ring", "phone", "calling", "dialing", "dialling"),
    ),
)
