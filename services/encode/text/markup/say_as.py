"""Reads the text of `<say-as>` as its `interpret-as` says, in words or in a form that the normaliser reads so."""

from __future__ import annotations

import regex

from services.encode.text.reading.number_words import number_words

_CHINESE_DIGITS = "零一二三四五六七八九"
_SYMBOLS = {
    "-": "dash", "–": "dash", "—": "dash", "_": "underscore", ".": "dot", ",": "comma", "/": "slash", "\\": "backslash",
    "@": "at", "#": "hash", "+": "plus", "&": "and", "*": "star", ":": "colon", ";": "semicolon",
    "!": "exclamation mark",
    "?": "question mark", "'": "apostrophe", '"': "quote", "(": "open parenthesis", ")": "close parenthesis",
    "=": "equals", "%": "percent", "$": "dollar", "€": "euro", "£": "pound",
}  # fmt: skip
_LONGEST_NUMBER = 15
_DATE_PARTS = regex.compile(r"\d+|\p{L}+")
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
        return _groups(text, language, ",")
    if kind in ("cardinal", "number"):
        return _number(text, language, "cardinal")
    if kind == "ordinal":
        return _number(text, language, "ordinal")
    if kind == "date":
        return _date(text, form.strip().lower())
    if kind == "duration":
        return _duration(text)
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
    if language in ("zh", "yue"):
        return _CHINESE_DIGITS[value]
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
        plus = ("加 " if language in ("zh", "yue") else "plus ") if group.startswith("+") else ""
        read_groups.append(plus + " ".join(_digit(c, language) if c.isdecimal() else c for c in group if c != "+"))
    return f"{between} ".join(read_groups)


def _number(text: str, language: str, kind: str) -> str:
    plain = regex.sub(r"(?<=\d)[, ](?=\d{3})", "", text).removesuffix(".")
    plain = regex.sub(r"(?i)(?<=\d)(?:st|nd|rd|th)$", "", plain)
    number = regex.fullmatch(r"([-+−]?)(\d+)", plain)
    if number is None or len(number.group(2)) > _LONGEST_NUMBER:
        return text
    sign, value = number.groups()
    if language in ("zh", "yue"):
        return f"第{value}" if kind == "ordinal" else f"{sign}{value}"
    return number_words(int(sign.replace("−", "-") + value), language or "en", kind) or text


def _date(text: str, form: str) -> str:
    """Return a date in ISO form, which the normaliser reads; other texts and partial dates stay."""
    parts = _DATE_PARTS.findall(text)
    order = form.replace("yyyy", "y").replace("mm", "m").replace("dd", "d").replace("/", "").replace("-", "")
    if sorted(order) != ["d", "m", "y"] or len(parts) != 3 or not all(part.isdigit() for part in parts):
        return text
    found = dict(zip(order, parts, strict=True))
    year = int(found["y"])
    if len(found["y"]) == 2:
        year += 2000 if year < 50 else 1900
    month, day = int(found["m"]), int(found["d"])
    return f"{year:04d}-{month:02d}-{day:02d}" if 1 <= month <= 12 and 1 <= day <= 31 else text


def _duration(text: str) -> str:
    match = _DURATION.fullmatch(text)
    if match is None:
        return text
    named = zip(match.groups(), ("hour", "minute", "second"), strict=True)
    return ", ".join(f"{int(n)} {unit}{'' if int(n) == 1 else 's'}" for n, unit in named if n is not None)
