"""Years of Chinese texts that wetext reads as quantities: ranges of years, years in two digits, generations."""

from __future__ import annotations

import regex

from services.encode.text.reading.chinese.numbers import spelled
from services.encode.text.reading.rule import Match, rule

_YEAR = r"1\d{3}|20\d\d"
_SPAN = r"期间|年代|年?度?(?:赛季|学年|财年)"
"""Follows two years without the word year: 2023-2024赛季."""
SHORT_YEAR = regex.compile(
    r"(?<![\d.:：/年期刑时共满达了近超过第每-])\d\d(?=年(?:(?:1[0-2]|0?[1-9])月(?!\d)|底|初|第[1-4一二三四]季度|出生|世界杯|奥运会))"
    r"|(?<![\d.:：/到至满过第-])(?:[5-9]\d|0\d|1[05])(?=后(?![天年月日\d]))"
    r"|(?<![\d.])[5-9]0(?=、[0-9]0后)"
)
"""A year in two digits (24年5月), but not a number of years (工作了24年), and the year of a generation (95后)."""

NAMED_YEAR = regex.compile(
    r"(?<=（)(?:19|20)\d\d(?=）)|(?<=《)(?:1\d|20)\d\d(?=》)|(?<=（[^（）\d]{2,24}，)(?:19[5-9]\d|20[0-2]\d)(?=[）；])|"
    r"(?<![\d.,:：/年共有约近达超到至满-])(?:199\d|20[0-4]\d)(?=届|级(?:新生|学生|本科|硕士|博士|研究生|同学)|赛季|财年|学年|年度|考研|高考|中考|国考|春晚|[春夏秋冬]季|春夏|秋冬|秋招|春招|校招"
    r"|(?![名人个位家支])\p{Han}{0,4}(?:世界杯|欧洲杯|奥运|亚运|世锦赛|锦标赛|博览会|峰会)|双1[12]|双十一|新年|跨年|(?<!2000)[款版](?!式|权|面|商品|产品|游戏|应用))"
)
"""A year without the word year before what has one: 2024届."""


def _both(match: Match) -> str:
    return f"{spelled(match['first'])}年到{spelled(match['last'])}年"


def _alone(match: Match) -> str | None:
    """Read two rising years without the word year, unless both are round, as in 1500-2000."""
    first, last = match["first"], match["last"]
    if not int(first) < int(last) if len(last) == 4 else int(last) != int(first[2:]) + 1:
        return None
    if first.endswith("00") and last.endswith("00"):
        return None
    return f"{spelled(first)}到{spelled(last)}"


YEARS = (
    rule(
        "年份范围",
        rf"(?<![\dA-Za-z.,^-])(?P<first>{_YEAR})\s?[-–—~～−至到]{{1,2}}\s?(?P<last>{_YEAR})年(?!代)|(?<![\d./-])(?P<first>{_YEAR})/(?P<last>{_YEAR})年",
        _both,
        "年",
    ),
    rule(
        "不带年字的年份范围",
        rf"(?<![\dA-Za-z.,^/-])(?P<first>{_YEAR})\s?[-–—~～−至到/]{{1,2}}\s?(?P<last>{_YEAR}|\d\d)(?={_SPAN})"
        r"|(?<=[（(])(?P<first>1\d{3}|20\d\d)\s?[-–—~～−至到]{1,2}\s?(?P<last>1\d{3}|20\d\d)(?=[）)])"
        r"|(?<=[朝代国][（(])(?P<first>[1-9]\d\d)\s?[-–—~～−至到]{1,2}\s?(?P<last>1\d{3})(?=[）)])"
        r"|(?<![\dA-Za-z.,^/-])(?P<first>1[89]\d\d|20\d\d)\s?[-–—~～−]{1,2}\s?(?P<last>1[89]\d\d|20\d\d)(?=[、，。；）]|$)",
        _alone,
        "-–—~～−至到/",
    ),
    rule("名称中的年份", NAMED_YEAR.pattern, lambda match: spelled(match.group())),
    rule("两位年份", SHORT_YEAR.pattern, lambda match: spelled(match.group()), "年后", starts=r"\d"),
)
