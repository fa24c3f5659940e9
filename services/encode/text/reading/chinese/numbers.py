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
TELEPHONE_DIGITS = "零幺二三四五六七八九"
_COUNTED = "元块人个名位次件家辆台套本册页字米里斤吨克升亩户票步天度分秒倍"
_PLAIN = regex.compile(
    r"(?<![\dA-Za-z.,:/+~～×*=<>#$€£¥°周期-])(?P<whole>0|[1-9]\d{0,7})(?:\.(?P<fraction>\d{1,8}))?(?P<percent>%)?"
    r"(?![\dA-Za-z.,:/+~～×*=<>#$€£¥%‰°℃℉²³-]|\s+[\dA-Za-z%°℃-])(?P<after>[\p{Han}]?)"
)
MEASURE = (
    r"(?:[个位天条张本家件台辆只块元人名套层秒米里斤吨度倍岁周种份杯瓶间页集篇句对双年届章节课时万亿千百公厘毫平"
    r"组项所门轮桌束朵圈拳瓣缕边侧端旁国省市县岸处站样列步遍包批滴扇顿下毛角股副幅笔类厅卫亩款部则餐晚串剂方梯碗支颗棵架艘把根片粒袋箱盒趟回枚]"
    r"|小时|星期|海里|英[里尺寸]|磅|盎司|听(?!力)|胜|战(?![区略队])|点(?!\d)|分(?!之)|次(?!方|元|函数)|成(?![分为员立功长])|室(?=\d厅))"
)
TWO = regex.compile(
    rf"(?:(?<=[A-Za-z])2(?=\p{{Han}})|(?<=[等大小]于)2(?=时(?![\d分]))|(?<=地[下上])2(?=层))|(?<![\d.:：/点月日A-Za-z第-])(?P<hour>2)(?=点(?:\d\d?分|[01356]\d(?!\d)|[13]刻))|(?<=凌晨|[上下]午|早上|晚上|中午|傍晚|今[晚早]|明[晚早])(?P<hour>2)(?=点\d)"
    r"|(?<![\d.:：/点A-Za-z-])(?:(?<=第)2(?=\p{Han})|2(?=(?:到\d\d?)?[月日号楼路级等胎手班栋幢档]|对\d|年\d\d?班|室(?!\d厅)|单元|年级|世纪|季度|分之)"
    rf"|(?<![周期十]|第\d{{1,3}}到)2(?P<measure>(?=(?:到\d{{1,3}}(?:\.\d+)?)?{MEASURE}(?!点\d))))"
)
"""A 2 whose reading its measure decides. wetext reads many of them the other way."""
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
    return plain_words(
        match["whole"], match["fraction"], match.string, match.start("after"), percent=bool(match["percent"])
    )


def plain_words(whole: str, fraction: str | None, text: str, end: int, *, percent: bool) -> str | None:
    """Return the words of a number before the place `end` of `text`, or None if they depend on more than its unit."""
    if percent:
        return f"百分之{number(whole, fraction)}"
    if fraction:
        return number(whole, fraction)
    after = text[end : end + 1]
    if after == "年" and len(whole) == 4:
        return spelled(whole)
    if after == "后" or (after == "年" and text[end + 1 : end + 2] == "代") or whole == "2":  # 90年代, 90后
        return None
    if len(whole) > 4 and (not after or after not in _COUNTED):  # may be a code
        return None
    return number(whole)


def spelled(digits: str) -> str:
    """Read digit by digit."""
    return "".join(DIGITS[int(digit)] for digit in digits)


def clock(hour: str, minute: str) -> str:
    """Read a time of day: 14:05 -> 十四点零五分."""
    hour = str(int(hour))
    words = "两点" if hour == "2" else f"{number(hour)}点"
    if minute == "00":
        return words
    return f"{words}{'零' + DIGITS[int(minute)] if minute[0] == '0' else number(minute)}分"


def two(match: regex.Match[str]) -> str:
    """Read 2 before a measure: 两个, but 第二个, 二月."""
    return "二" if match["measure"] is None and match["hour"] is None else "两"


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
