"""Scores and ranges in Chinese: what a dash or a colon between two numbers means."""

from __future__ import annotations

import regex

from services.encode.text.reading.chinese.numbers import spelled
from services.encode.text.reading.rule import Match, rule

_DASH = r"\s?[-–—~～−]\s?"
_OUTSIDE = r"(?<![\dA-Za-z.,^-])"
_NUMBER = r"\d+(?:\.\d+)?"
_PAIR = r"\d{1,3}\s?[-–—−]\s?\d{1,3}"
_NO_TIME = regex.compile(r":\d(?!\d)")
_MATCH = regex.compile(
    r"\p{Han}\d比\d\p{Han}|\p{Han}\d:\d\p{Han}|战[胜平]|击败|不敌|主场|客场|[晋升]级|淘汰|半场|进球|比赛|联赛|决赛|足球|篮球|排球|[英西意德法中]超|[西意法]甲|德甲|欧冠|亚冠|世界杯|NBA|CBA"
    r"|国安|申花|泰山|海港|恒大|曼[城联]|利物浦|切尔西|阿森纳|热刺|皇马|巴萨|马竞|拜仁|多特|国米|尤文|湖人|勇士|火箭队|凯尔特人"
)
"""What makes two numbers between names of teams the score of a match."""
_EQUALS = regex.compile(r"\s?(?:=|是多少|等于)")
_ENDS = (
    r"(?!\d|\.\d|\s?(?:[-–—−/:：%‰℃°㎡A-Za-z²³=]|小时|星期|摄氏|的(?!\p{Han}{0,2}(?:比分|成绩|优势|战绩|胜利|失利))|是多少|等于"
    r"|[个位天条张本家件台辆只块元角分钱人名套层米里斤吨克升度倍岁周种份杯瓶间页集篇句对年届章节课时点万亿千百公厘毫组项所门步遍"
    r"号楼栋单室班月日秒级次股行列排美欧多几余左以之到至期款厘折]|平(?![局手])))"
)
"""What may not follow the scores of a match: a word that makes two numbers a range (10-5米)."""
_MEASURED = regex.compile(r"\s?(?:[杯勺匙寸磅升]|[茶汤]匙|英[寸里尺]|小时|[公千]?[克斤里])")
_MONTH_AND_DAY = r"(?P<{0}>0?[1-9]|1[0-2])/(?P<{1}>0?[1-9]|[12]\d|3[01])"


def _score(match: Match) -> str:
    return f"{match['first']}比{match['last']}"


def _numbered(match: Match) -> str:
    """Read 图3-1: the dash stays, because the figures 1 to 3 are written like this too."""
    return f"{match['first']}杠{match['last']}"


def _spelled(written: str) -> str:
    return "点".join(map(spelled, written.split(".")))


def _scores(match: Match) -> str | None:
    """Read pairs of which one does not rise as scores: ranges rise."""
    pairs = [regex.findall(r"\d+", pair) for pair in regex.findall(_PAIR, match.group())]
    if any(len(number) > 1 and number[0] == "0" for pair in pairs for number in pair):
        return None
    if match["won"] is None and not any(int(first) >= int(last) for first, last in pairs):
        return None
    return regex.sub(r"\s?[-–—−]\s?", "比", match.group())


def _percent(match: Match) -> str:
    if not match["percent"] and match["dash"].strip() in "-−" and float(match["first"]) > float(match["last"]):
        return f"{match['first']}减{match['last']}%"  # 200-20%
    return f"{match['first']}%到{match['last']}%"


def _range(match: Match) -> str | None:
    first, last = match["first"], match["last"]
    if len(first) > 1 and first[0] == "0" and "." not in first:
        return None
    if match.string.startswith("号", match.end()) and float(first) > float(last):
        return f"{first}杠{last}"  # 中山路12-3号
    if len(first) == 4 and first[0] in "12" and len(last) == 2 and 1 <= int(last) <= 12:
        return None  # 2024-12, which wetext reads as a month
    if _EQUALS.match(match.string, match.end()) or match.string[: match.start()].endswith(("满", "计算")):
        return f"{first}减{last}"
    return f"{first}到{last}"


def _days(match: Match) -> str | None:
    """Read 6/7-6/9 as days, and 1/2-3/4 as fractions."""
    a, b, c, d = (int(match[name]) for name in "abcd")
    if _MEASURED.match(match.string, match.end()) is not None:
        return f"{b}分之{a}到{d}分之{c}"
    return f"{a}月{b}日到{c}月{d}日"


DAYS = rule(
    "日到日",
    rf"(?<![\d./]){_MONTH_AND_DAY.format('a', 'b')}{_DASH}{_MONTH_AND_DAY.format('c', 'd')}(?![\d./])",
    _days,
    "/",
)
SCORES = (
    rule(
        "局分",
        r"(?<=(?:比分(?:是|为|：|:)?|以\s?(?=\d))\s?(?:\d{1,3}[-:–—]\d{1,3}[、，,和]\s?)*)(?<!以\s?)(?P<first>\d{1,3})[-:–—](?P<last>\d{1,3})(?![\d:])",
        _score,
        ":-–—",
    ),
    rule(
        "比分",
        rf"(?:(?<=比分(?:是|为|：|:)?\s?|[胜平负败]\s?)(?P<first>\d+){_DASH}(?P<last>{_NUMBER})(?!\d)"
        rf"|(?<=以\s?)(?P<first>\d+){_DASH}(?P<last>{_NUMBER}){_ENDS})",
        _score,
        "-–—~～−",
    ),
    rule(
        "多局比分",
        rf"(?<![\dA-Za-z.,^第满从算图表例式/+:：-])(?<!第\d[\d、，-]{{0,30}})(?:{_PAIR}[、，,和]\s?)*{_PAIR}{_ENDS}"
        r"(?P<won>(?=\s?(?:险胜|大胜|完胜|战胜|击败|逆转|领先|落后|不敌|惜败|负于|战平|[胜负平败])))?",
        _scores,
        "-–—−",
    ),
    rule(
        "球队比分",
        rf"(?<=(?<![第满从算约近需要每达])\p{{Han}}\s?)(?P<first>0|[1-9]\d?)[-–—](?P<last>0|[1-9]\d?)(?!\s?[线类胎产起到至回轮场局盘球站脚强支])(?=\s?\p{{Han}}{{2}}){_ENDS}",
        lambda match: _score(match) if _MATCH.search(match.string) else None,
        "-–—",
    ),
    rule(
        "英文队名的比分",
        r"(?<=[A-Za-z][A-Za-z\d]\s)(?P<first>\d{1,2})-(?P<last>\d{1,2})(?=\s[A-Z]{2})",
        lambda match: _score(match) if int(match["first"]) > int(match["last"]) else None,
        "-",
    ),
    rule(
        "分数表",
        r"(?<![\d:.])\d{1,2}:\d{1,2}(?:[、，,]\s?\d{1,2}:\d{1,2})+(?![\d:.])",
        lambda match: match.group().replace(":", "比") if _NO_TIME.search(match.group()) else None,
        ":",
    ),
    rule("一位数之比", r"(?<![\d:.A-Za-z/\[-])(?P<first>\d{1,3}):(?P<last>\d)(?![\d:.]|[A-Za-z\]])", _score, ":"),
)
RANGES = (
    rule("文献范围", r"(?<=\[(?:\d[\d,，、–-]*)?\d)[-–](?=\d+[\],，、])", lambda match: "到", "["),
    rule("图表编号", r"(?<=[图表例式])(?P<first>\d{1,2})[-–](?P<last>\d{1,2})(?!\d|[-–.]\d)", _numbered, "-–"),
    rule(
        "标准号",
        r"(?<![A-Za-z])(?P<name>(?:GB(?:/[TZ])?|[A-Z]{2}/T|T/[A-Z]{2,6}|DB\d\d(?:/T)?|ISO|IEC|EN|JGJ|JTG|CJJ))"
        r"\s?(?P<first>\d{3,6}(?:\.\d+)?)[-–—](?P<last>(?:19|20)\d\d)(?![\d-])",
        lambda match: f"{match['name']}{_spelled(match['first'])}杠{_spelled(match['last'])}",
        "-–—",
        starts="A-Z",
    ),
    rule(
        "型号的连字符",
        r"(?<=歼轰?|轰|运|直|苏|空警|东风|红旗|巨浪|鹰击|长征|长剑|神舟|嫦娥|彩虹|翼龙|米格|伊尔)[-－](?=\d)|(?<=图)-(?=(?:22|95|104|154|160)(?!\d))",
        lambda match: "",
        "-－",
    ),
    rule(
        "百分比范围",
        rf"{_OUTSIDE}(?P<first>{_NUMBER})(?P<percent>%)?(?P<dash>{_DASH})(?P<last>{_NUMBER})%",
        _percent,
        "%",
    ),
    rule(
        "日期到日期",
        r"(?<=[\d一二三四五六七八九十]\s?[年月日号时点分度岁周季期元米]|周[一二三四五六日天]|星期[一二三四五六日天]|今天|明天|昨天|即日|年[初中底末]|月[初中底末])\s?[-–—~～]\s?(?=\d|第|公元|周[一二三四五六日天]|星期|[今明后次][天日年月晨]|翌日|当[天晚日]|[上下][午周月]|早上|晚上|凌晨|中午|傍晚|夜间|年[底末]|月[底末])",
        lambda match: "到",
        "-–—~～",
    ),
    rule(
        "一串数字",
        r"(?<![\dA-Za-z./-])(?![12]\d{3}-\d\d?-\d\d?(?!\d))\d+(?:-\d+){2,}(?![\d/-])",
        lambda match: match.group().replace("-", "，"),
        "-",
    ),
    rule(
        "负数范围",
        r"(?<![\dA-Za-z.,)）%])[-−](?P<first>\d+(?:\.\d+)?)\s?[~～]\s?(?P<last>[-−]?\d+(?:\.\d+)?)(?![\d.%°℃])",
        lambda match: f"负{match['first']}到{regex.sub('[-−]', '负', match['last'])}",
        "~～",
    ),
    rule("范围", rf"{_OUTSIDE}(?P<first>{_NUMBER}){_DASH}(?P<last>{_NUMBER})(?![\d./]|[-–]\d)", _range, "-–—~～−"),
)
