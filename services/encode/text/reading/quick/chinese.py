"""Reads Chinese sentences whose numbers are all of frequent kinds in one pass.

The rules of `reading/chinese` and wetext define how numbers are read; wetext needs milliseconds for a clause. This
reader returns None as soon as a sentence has anything else. `tests/unit/encode/test_quick.py` compares both.
"""

from __future__ import annotations

import re

import regex

from services.encode.text.reading.chinese.names import DAY_NAMES, HOLIDAYS, NAMES, named
from services.encode.text.reading.chinese.numbers import TELEPHONE_DIGITS, TWO, clock, plain_words, spelled, two
from services.encode.text.reading.chinese.times import TIMED
from services.encode.text.reading.chinese.years import NAMED_YEAR, SHORT_YEAR

_ALLOWED = re.compile(r"[\u4e00-\u9fff。，！？；：、“”‘’《》（）\n0-9.:%]*")
_NUMBER = re.compile(
    r"(?P<year>[12]\d{3})(?=年)"
    r"|(?<![\d:：.])(?P<hour>[01]?\d|2[0-4]):(?P<minute>[0-5]\d)(?![\d:：]|\.\d)"
    r"|(?<![\d.:：周期])(?P<mobile>1[3-9]\d{9})(?![\d.:：%])"
    r"|(?<![\d.:：周期])(?P<whole>0|[1-9]\d{0,7})(?:\.(?P<fraction>\d{1,8}))?(?P<percent>%)?(?![\d.:：%])"
    r"|(?P<other>[0-9.:%])"
)
_BEGIN = re.compile(r"[0-9.:%]")
"""The first character of what `_NUMBER` matches. The search for one character is many times faster."""

_LONGEST_CODE_WORD = 8
_LONGEST_CASE = 12
_ROOMS = ("室", "房", "会议室", "教室", "病房", "包间", "包厢", "号房", "号病")
_DAY_NAMES = (*DAY_NAMES.split("|"), *HOLIDAYS.split("|"))
_CALLS = ("电话", "热线", "拨", "拨打", "致电")
_BUILDING = ("单元", "栋", "幢", "号楼", "楼")


def read_quickly(text: str, code_word: regex.Pattern[str]) -> str | None:
    """Return the sentence with its numbers in words, or None if it needs the rules.

    `code_word`: matches the end of a text after which a number of two digits or more names something.
    """
    if _ALLOWED.fullmatch(text) is None:
        return None
    parts: list[str] = []
    end = 0
    while (found := _BEGIN.search(text, end)) is not None:
        match = _NUMBER.match(text, found.start())
        if match is None or (words := _words(match, text, code_word)) is None:
            return None
        parts += (text[end : match.start()], words)
        end = match.end()
    parts.append(text[end:])
    return "".join(parts)


def _words(match: re.Match[str], text: str, code_word: regex.Pattern[str]) -> str | None:
    kind = match.lastgroup
    if kind == "other":
        return None
    if kind == "minute":
        if "比分" in text or TIMED.search(text) is not None:
            return None
        return clock(match["hour"], match["minute"])
    start, end = match.span()
    digits = match["year"] or match["mobile"] or match["whole"]
    if text[max(0, start - 4) : start].rstrip("：是为").endswith(_CALLS):
        return None
    if text.endswith(_BUILDING, 0, start) and len(digits) > 2:
        return None
    if text.startswith(_ROOMS, end) or (len(digits) in (2, 3) and text[start - 1 : start] in ("米", "秒")):
        return None
    if (kind == "fraction" and text[start - 1 : start] == "（") or (
        text[end : end + 1] == "号" and "）" in text[max(0, start - _LONGEST_CASE) : start]
    ):
        return None  # 周二（12.3）, and the number of a case: （2023）民终123号
    if kind == "fraction" and (match["fraction"] == "00" or text.startswith(_DAY_NAMES, end)):
        return None
    if 2 < len(digits) < 6 and kind != "percent" and (name := NAMES.match(text, start)) is not None:
        return named(name)
    if len(digits) > 1 and code_word.search(text, max(0, start - _LONGEST_CODE_WORD), start) is not None:
        return None if kind != "whole" or text[end : end + 1] in ("年", "月") else spelled(digits)
    if len(digits) == 2 and kind == "whole" and SHORT_YEAR.match(text, start) is not None:
        return spelled(digits)
    if len(digits) == 4 and NAMED_YEAR.match(text, start) is not None:
        return spelled(digits)
    if kind == "whole" and len(digits) == 4 and text.startswith(("到", "至"), end):
        return None  # a range of years
    if kind == "year":
        return spelled(digits)
    if kind == "mobile":
        return "".join(TELEPHONE_DIGITS[int(digit)] for digit in digits)
    if digits == "2" and not match["fraction"] and kind != "percent":
        found = TWO.match(text, start)
        return two(found) if found is not None else None
    return plain_words(digits, match["fraction"], text, end, percent=kind == "percent")
