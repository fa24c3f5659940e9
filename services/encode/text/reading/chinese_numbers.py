"""Plain numbers in Chinese clauses, without wetext, which needs several milliseconds for a clause with a number.

Only what has one reading is read here; a clause with anything else goes to wetext as a whole.
"""

from __future__ import annotations

from functools import lru_cache

import regex

DIGITS = "零一二三四五六七八九"
_PLACES = ("", "十", "百", "千")
_GROUPS = ("", "万", "亿")
_LONGEST = 8
_COUNTED = "元块人个名位次件家辆台套本册页字米里斤吨克升亩户票步天度分秒倍"
_PLAIN = regex.compile(
    r"(?<![\dA-Za-z.,:/+~～×*=<>#$€£¥°周期-])(?P<whole>0|[1-9]\d{0,7})(?:\.(?P<fraction>\d{1,8}))?(?P<percent>%)?"
    r"(?![\dA-Za-z.,:/+~～×*=<>#$€£¥%‰°℃℉²³-]|\s+[\dA-Za-z%°℃-])(?P<after>[\p{Han}]?)"
)
_OTHERS = regex.compile(r"[\d%‰¥$€£°℃℉±×÷=]")


def read_plain(clause: str) -> str | None:
    """Return the clause with its plain numbers in words, or None if it has anything else to read."""
    parts: list[str] = []
    end = 0
    for match in _PLAIN.finditer(clause):
        words = _words(match)
        if words is None:
            return None
        parts += (clause[end : match.start()], words)
        end = match.start("after")
    parts.append(clause[end:])
    if any(_OTHERS.search(part) is not None for part in parts[::2]):
        return None
    return "".join(parts)


def _words(match: regex.Match[str]) -> str | None:
    whole, fraction, after = match["whole"], match["fraction"], match["after"]
    if match["percent"]:
        return f"百分之{number(whole, fraction)}"
    if fraction:
        return number(whole, fraction)
    if after == "年" and len(whole) == 4:
        return "".join(DIGITS[int(digit)] for digit in whole)
    if after in ("年", "后") or whole == "2":  # 90年代, 90后, 2个: wetext knows which
        return None
    if len(whole) > 4 and (not after or after not in _COUNTED):  # may be a code
        return None
    return number(whole)


@lru_cache(maxsize=8192)
def number(whole: str, fraction: str | None = None) -> str:
    """Read a number of up to eight digits, without a leading zero, and its decimals."""
    groups = [whole[max(0, end - 4) : end] for end in range(len(whole), 0, -4)]
    words, gap = "", False
    for place in range(len(groups) - 1, -1, -1):
        value = int(groups[place])
        if not value:
            gap = bool(words)
            continue
        zero = "零" if words and (gap or value < 1000) else ""
        words += zero + _group(value) + _GROUPS[place]
        gap = False
    if words.startswith("一十"):
        words = words[1:]
    elif words[:1] == "二" and words[1:2] in ("百", "千", "万"):
        words = "两" + words[1:]
    words = words or "零"
    return f"{words}点{''.join(DIGITS[int(digit)] for digit in fraction)}" if fraction else words


def _group(value: int) -> str:
    words, gap = "", False
    for place in range(3, -1, -1):
        digit = value // 10**place % 10
        if not digit:
            gap = bool(words)
            continue
        words += ("零" if gap else "") + DIGITS[digit] + _PLACES[place]
        gap = False
    return words
