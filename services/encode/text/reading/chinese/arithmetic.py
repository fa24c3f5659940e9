"""Arithmetic in Chinese texts. Without these rules a minus becomes a range or a sign, and a division a date."""

from __future__ import annotations

import regex

from services.encode.text.reading.rule import Match, rule

_SIGNS_OF_OPERANDS = r"\dA-Za-zα-ωΑ-Ω√.²³^()（）%°"
_OPERAND = rf"[{_SIGNS_OF_OPERANDS}]"
_OPERATOR = r"[-−+±×÷*/=≈≤≥≠]"
_WORDS = {
    "+": "加", "-": "减", "−": "减", "±": "正负", "×": "乘", "*": "乘", "÷": "除以", "/": "除以", "=": "等于",
    "≈": "约等于", "≤": "小于等于", "≥": "大于等于", "≠": "不等于",
}  # fmt: skip
_COMPARES = frozenset("=≈≤≥≠")
_LONG_WORD = regex.compile(r"(?!sin|cos|tan|log|lim|sqrt)[A-Za-z]{4,}|\d{4}-\d\d?-\d\d?")
_FRACTION = regex.compile(r"(?<![\d./A-Za-z)）])(?P<over>\d{1,4})/(?P<under>[1-9]\d{0,3})(?![\d./A-Za-z²³^(（])")
_SQUARE = regex.compile(r"(?<=[\d)）])(?:(?P<two>\^\(?2\)?|²)|\^\(?3\)?|³)(?![\d.])")
_SIGN = regex.compile(rf"\s?(?P<sign>{_OPERATOR})\s?")
_TERM_BEFORE = regex.compile(r"(?:(?<![A-Za-z])\d[\d.]*%?[a-z]?|(?<![A-Za-z])[a-z]|[²³)）])$")
_TERM_AFTER = regex.compile(r"\d[\d.]*%?(?:[a-z]{1,2}(?![A-Za-z\d])|(?![A-Za-z]))|[a-z](?![A-Za-z\d])|[(（√]")
_SHOWN = regex.compile(
    r"[\d)）²³%]\s?[+×÷*]\s?[-\d(（√A-Za-z]|[A-Za-z]\s?[+×÷]\s?[\d(（√]|^\d+[-−]\d+/\d+$|[a-z)）][²³^].*[-−]"
)
"""What makes an expression without = more than a range, a score, a path or a name."""
_DEFINED = regex.compile(r"^[A-Za-z]{2,}\s?[=≈≤≥]\s?[\d.]+\s?[-−]\s?[\d.]+%?$")
"""A name and the range of its values: BMI=18.5-24."""
_UNIT_BEFORE = regex.compile(r"\d(?:km|kg|mg|mol|mL|[mgL])?$")
_UNIT_AFTER = regex.compile(r"(?:[dmμ]?L|kg|min|[hsd]|c?m[²³])(?![A-Za-z])")
_DENOMINATORS = {"2": "二", "100": "百", "1000": "千"}


def fraction(match: Match) -> str:
    """Write 1/3 as 3分之1."""
    return f"{_DENOMINATORS.get(match['under'], match['under'])}分之{match['over']}"


def _division(match: Match) -> str:
    over, under = int(match["over"]), int(match["under"])
    return match.group() if over >= under and over % under == 0 else fraction(match)


def _expression(match: Match) -> str | None:
    """Return the expression with its signs in words, or None if it may be a range, a score, a date or a name."""
    written = match.group()
    if _LONG_WORD.search(written) is not None:
        return None
    signs = [found for found in _SIGN.finditer(written) if _is_binary(written, found)]
    kinds = {found["sign"] for found in signs}
    compares = bool(kinds & _COMPARES)
    if not (_DEFINED.search(written) is None if compares else _SHOWN.search(written)):
        return None
    spoken, end = "", 0
    joined = _FRACTION.sub(_division, written)
    for found in _SIGN.finditer(joined):
        sign, before, after = found["sign"], joined[: found.start()], joined[found.end() :]
        word = _WORDS[sign]
        if sign in "-−":
            if not _is_binary(joined, found):
                word = "负"
            elif not compares and not (_TERM_BEFORE.search(before) and _TERM_AFTER.match(after)):
                word = found.group()
        elif (sign == "+" and not _is_binary(joined, found)) or (
            sign == "/" and _UNIT_BEFORE.search(before) and _UNIT_AFTER.match(after)
        ):
            word = found.group()
        spoken += joined[end : found.start()] + word
        end = found.end()
    return _SQUARE.sub(lambda power: "的平方" if power["two"] else "的立方", spoken + joined[end:])


def _is_binary(written: str, sign: Match) -> bool:
    """Return whether the sign has an operand before it, so that it is not the sign of a number."""
    before = written[: sign.start()]
    return bool(before) and before[-1] not in "(（=≈≤≥≠×÷*/+-−"


ARITHMETIC = (
    rule(
        "算术",
        rf"(?<![{_SIGNS_OF_OPERANDS}_&?/:@~$€£¥])(?:(?<!\w)[-−])?{_OPERAND}+"
        rf"(?:\s?{_OPERATOR}\s?(?:(?<=[=≈≤≥≠×÷]\s?)[-−+])?{_OPERAND}+)+(?![<>!=]=|=[=>])",
        _expression,
        "+×÷=≈≤≥≠-−*",
        when=r"[+×÷=≈≤≥≠*²³^]|\d[-−]\d+/",
    ),
    rule(
        "等号",
        r"(?<=[\p{Han}A-Za-z\d_)）²³%°℃])\s?(?P<sign>[=≈])\s?(?=[-−+]?[\p{Han}A-Za-z\d（(√“.])",
        lambda match: _WORDS[match["sign"]],
        "=≈",
    ),
    rule(
        "文字算式",
        r"(?<=\p{Han})\s?(?P<sign>[+÷])\s?(?=\p{Han})"
        r"|(?<=等于[^，。；]{0,20}\p{Han})\s?(?P<sign>[-−×])\s?(?=[\p{Han}\d（(])",
        lambda match: _WORDS[match["sign"]],
        "+÷-−×",
    ),
)
SLASHES = (
    rule(
        "带分数",
        r"(?<![\d./])(?P<whole>\d{1,3})\s(?P<over>\d{1,2})/(?P<under>[1-9]\d?)(?![\d./])",
        lambda match: f"{match['whole']}又{fraction(match)}" if int(match["over"]) < int(match["under"]) else None,
        "/",
    ),
    rule(
        "小数与斜杠",
        r"(?<![\d./])(?P<first>\d+\.\d+%?)/(?P<last>\d+(?:\.\d+)?%?)(?![\d./])"
        r"|(?<![\d./])(?P<first>\d+%?)/(?P<last>\d+\.\d+%?)(?![\d./]|\s?英寸)",
        lambda match: f"{match['first']}斜杠{match['last']}",
        "/",
    ),
    rule(
        "两个尺寸",
        r"(?<![\d./])(?P<first>[1-9]\d{2,3})/(?P<last>[1-9]\d{2,3})(?=\s?(?:mm|cm|毫米|厘米))",
        lambda match: f"{match['first']}斜杠{match['last']}",
        "/",
    ),
    rule(
        "字母旁的斜杠",
        r"(?<=(?<![A-Za-z])[A-Z]{1,4}\d{1,3})/(?=\d{1,3}(?![\d./]))|(?<=(?<![\d./])\d{2,3})/(?=\d{2,3}[A-Z](?![A-Za-z]))|(?<=(?<![\d./])\d{1,2})/(?=\d{1,2}层)",
        lambda match: "斜杠",
        "/",
    ),
    rule(
        "分数",
        r"(?<![\d./])(?:(?<=[约近过到足占有]|至少|最多|几乎)(?P<over>\d{1,4})/(?P<under>[1-9]\d{0,3})(?![\d./月]|\s?[年日号])"
        r"|(?P<over>\d{1,4})/(?P<under>[1-9]\d{0,3})(?=的|以上|以下|左右)"
        r"|(?P<over>\d{1,4})/(?P<under>[1-9]\d{1,3})(?![\d./]|\s?[年月日号]))",
        fraction,
        "/",
    ),
)
"""Fractions, and numbers with a slash that are none."""
