"""Reads the text of `<say-as>` as its `interpret-as` says, in words or in a form that the normaliser reads so."""

from __future__ import annotations

from itertools import accumulate, pairwise

import regex

from services.encode.text.reading.chinese import numbers
from services.encode.text.reading.english.calendar import MONTHS
from services.encode.text.reading.number_words import number_words

_CHINESE = frozenset(("zh", "yue"))
_SYMBOLS = {
    "-": "dash", "–": "dash", "—": "dash", "_": "underscore", ".": "dot", ",": "comma", "/": "slash", "\\": "backslash",
    "@": "at", "#": "hash", "+": "plus", "&": "and", "*": "star", ":": "colon", ";": "semicolon",
    "!": "exclamation mark",
    "?": "question mark", "'": "apostrophe", '"': "quote", "(": "open parenthesis", ")": "close parenthesis",
    "=": "equals", "%": "percent", "$": "dollar", "€": "euro", "£": "pound",
}  # fmt: skip
_LONGEST_NUMBER = 15
_LONGEST_CHINESE_NUMBER = 8
_DATE_PARTS = regex.compile(r"\d+|\p{L}+")
_WIDTHS = {"y": 4, "m": 2, "d": 2}
_WITHOUT_YEAR = regex.compile(r"\?{4}(\d{4})")
_DURATION = regex.compile(r"""(?:(\d{1,3})\s*[h:])?\s*(\d{1,3})\s*['′m:]\s*(\d{1,3})\s*(?:"|''|″|s)?""")


def read(text: str, interpret_as: str, form: str, language: str) -> str | None:
    """Return the text to speak; None if the kind is not known. `form`: the attribute `format`."""
    kind = interpret_as.strip().lower().removeprefix("vxml:")
    text = text.strip()
    if kind in ("characters", "spell-out", "verbatim", "letters", "character", "spell"):
        return _characters(text, language)
    if kind in ("digits", "number_digit", "digit"):
        return _groups(text, language, "")
    if kind in ("telephone", "phone"):
        return _telephone(text, language)
    if kind in ("cardinal", "number"):
        return _number(text, language, "cardinal")
    if kind == "ordinal":
        return _number(text, language, "ordinal")
    if kind == "date":
        return _date(text, form.strip().lower(), language)
    if kind == "duration" or (kind == "time" and regex.search("['′]", text)):  # 1'21"
        return _duration(text, language)
    known = (
        "fraction",
        "unit",
        "time",
        "currency",
        "money",
        "address",
        "name",
        "net",
        "url",
        "measure",
        "text",
        "spoken",
    )
    return text if kind in known else None


def digits(text: str, language: str) -> str:
    """Return the digits of `text`, each as a word."""
    return " ".join(_digit(char, language) for char in text if char.isdigit())


def _digit(char: str, language: str) -> str:
    value = int(char)
    if language in _CHINESE:
        return numbers.DIGITS[value]
    return number_words(value, language or "en") or char


def _characters(text: str, language: str) -> str:
    spoken: list[str] = []
    for char in text:
        if char.isdecimal():
            spoken.append(_digit(char, language))
        elif char.isalpha():
            spoken.append(char.upper() if len(char.upper()) == 1 else char)
        elif language in ("", "en") and char in _SYMBOLS:
            spoken.append(_SYMBOLS[char])
    return " ".join(spoken)


def _groups(text: str, language: str, between: str) -> str:
    groups = [group for group in regex.split(r"[^\p{Nd}+\p{L}]+", text) if group]
    read_groups = []
    for group in groups:
        plus = ("加 " if language in _CHINESE else "plus ") if group.startswith("+") else ""
        read_groups.append(plus + " ".join(_digit(c, language) if c.isdecimal() else c for c in group if c != "+"))
    return f"{between} ".join(read_groups)


def _telephone(text: str, language: str) -> str:
    spoken = _groups(text, language, ",")
    return spoken.replace("一", numbers.TELEPHONE_DIGITS[1]) if language in _CHINESE else spoken


def _number(text: str, language: str, kind: str) -> str:
    plain = regex.sub(r"(?<=\d)[, ](?=\d{3})", "", text).removesuffix(".")
    plain = regex.sub(r"(?i)(?<=\d)(?:st|nd|rd|th)$", "", plain)
    number = regex.fullmatch(r"([-+−]?)(\d+)", plain)
    if number is None or len(number.group(2)) > _LONGEST_NUMBER:
        return text
    sign, value = number.groups()
    if language in _CHINESE:
        if kind == "ordinal":
            return f"第{value}"
        if len(value) > _LONGEST_CHINESE_NUMBER or value == "2":  # the measure after a 2 decides how it is read
            return f"{sign}{value}"
        return f"{'负' if sign in ('-', '−') else ''}{numbers.number(str(int(value)))}"
    return number_words(int(sign.replace("−", "-") + value), language or "en", kind) or text


def _date(text: str, form: str, language: str) -> str:
    """Return a date in a form that the normaliser reads; other texts stay."""
    order = form.replace("yyyy", "y").replace("mm", "m").replace("dd", "d").replace("/", "").replace("-", "")
    if (partial := _WITHOUT_YEAR.fullmatch(text)) is not None:
        text, order = partial[1], "md"
    parts = _DATE_PARTS.findall(text)
    if len(parts) == 1 and len(text) == sum(_WIDTHS.get(part, 0) for part in order or "ymd"):  # 20240305
        order = order or "ymd"
        ends = list(accumulate(_WIDTHS[part] for part in order))
        parts = [text[start:end] for start, end in pairwise((0, *ends))]
    if len(parts) != len(order) or not all(part.isdigit() for part in parts):
        return text
    found = dict(zip(order, parts, strict=True))
    if sorted(order) != ["d", "m", "y"]:
        return _partial_date(found, language) or text
    year = int(found["y"])
    if len(found["y"]) == 2:
        year += 2000 if year < 50 else 1900
    month, day = int(found["m"]), int(found["d"])
    return f"{year:04d}-{month:02d}-{day:02d}" if 1 <= month <= 12 and 1 <= day <= 31 else text


def _partial_date(found: dict[str, str], language: str) -> str | None:
    """Return the month with its day or its year; None for other parts and in other languages."""
    if "m" not in found or len(found) != 2 or not 1 <= (month := int(found["m"])) <= len(MONTHS):
        return None
    day, year = found.get("d"), found.get("y")
    if language in _CHINESE:
        return f"{month}月{int(day)}日" if day else f"{year}年{month}月"
    return f"{MONTHS[month - 1]} {int(day) if day else year}" if language in ("", "en") else None


def _duration(text: str, language: str) -> str:
    match = _DURATION.fullmatch(text)
    if match is None:
        return text
    if language in _CHINESE:
        parts = zip(match.groups(), ("小时", "分", "秒"), strict=True)
        return "".join(f"{int(n)}{unit}" for n, unit in parts if n is not None)
    if language not in ("", "en"):
        return text
    named = zip(match.groups(), ("hour", "minute", "second"), strict=True)
    return ", ".join(f"{int(n)} {unit}{'' if int(n) == 1 else 's'}" for n, unit in named if n is not None)
