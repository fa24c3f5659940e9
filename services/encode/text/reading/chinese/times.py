"""Dates, times of day and durations in Chinese."""

from __future__ import annotations

import regex

from services.encode.text.reading.chinese.names import COUNTED
from services.encode.text.reading.chinese.numbers import TELEPHONE_DIGITS, clock, spelled
from services.encode.text.reading.rule import Match, rule

_DASH = r"\s?[-–—~～−]\s?"
_MONTH_AND_DAY = r"(?P<{0}>0?[1-9]|1[0-2]){2}(?P<{1}>0?[1-9]|[12]\d|3[01])"
TIMED = regex.compile(r"(?<!睡眠|工作|飞行|行驶|驾驶|充电|续航|加班|学习|在线|累计)时长|倒计时|配速|圈速")
"""What lasts minutes and seconds where two numbers are written: 倒计时01:30."""
_LASTS = r"(?:时长|倒计时|计时|用时|耗时|历时|片长|成绩|圈速)"

_VERSION = regex.compile(r"(?:[A-Za-z]|版本?)[号是为：:]{0,2}\s?$")
"""Before a version such as PyCharm 2024.3.5."""


def _duration(match: Match) -> str:
    """Read 01:23:45 and 3'20" as a length of time; the zeros before it are not spoken."""
    hours, minutes, seconds = int(match["h"] or 0), int(match["m"]), f"{int(match['s'])}{match['f'] or ''}"
    parts = [f"{hours}小时" if hours else "", f"{minutes}分" if minutes or hours else ""]
    return f"{''.join(parts)}{seconds}秒" if seconds != "0" or not any(parts) else "".join(parts)


def _in_letters(match: Match) -> str:
    """Read 1h30min: wetext reads the m of 1h30m as meters."""
    seconds = f"{int(match['s'])}秒" if match["s"] else "钟"
    return f"{match['h']}小时{int(match['m'])}分{seconds}"


def _pace(match: Match) -> str | None:
    said = match.string[: match.start()].endswith(("身高", "身高是", "身高为", "身高：", "身高:"))
    return None if said else f"{int(match['m'])}分{int(match['s'])}秒"


def _date(match: Match) -> str | None:
    last = f"到{int(match['n'])}月{int(match['e'])}日" if match["n"] else ""
    if not last and len(match["m"]) != 2 and _VERSION.search(match.string, 0, match.start()) is not None:
        return None
    return f"{match['y']}年{int(match['m'])}月{int(match['d'])}日{last}"


def _moment(match: Match) -> str:
    """Read the zone of 2024-03-05T08:00:00+08:00, too."""
    zone = match["zone"] or ""
    if zone[:1] in ("+", "-"):
        zone = f"{'东' if zone[0] == '+' else '西'}{int(zone[1:3])}区"
    return f"{match['date']}，{match['time']}{'，' if zone else ''}{'UTC' if zone == 'Z' else zone}"


def _slashes(match: Match) -> str:
    """Read 24/11/27 as a date, and 110/119/120 as a list."""
    if match["y"] is not None:
        return f"{spelled(match['y'])}年{int(match['m'])}月{int(match['d'])}日"
    numbers = match.group().split("/")
    if all(regex.fullmatch("1[12][0-9]", number) for number in numbers):
        numbers = ["".join(TELEPHONE_DIGITS[int(digit)] for digit in number) for number in numbers]
    return "、".join(numbers)


def _times(match: Match) -> str:
    return f"{match['first']}到{match['last']}"


def _half(match: Match) -> str | None:
    """Write 3:00 PM as 下午3:00, unless the text has said so before."""
    said = regex.search(r"[上下]午\s*$|[早晚]上\s*$|中午\s*$", match.string[: match.start()])
    return match["time"] if said else f"{'上午' if match['half'] in 'aA' else '下午'}{match['time']}"


def _time(match: Match) -> str:
    return clock(match["hour"], match["minute"])


def _month_and_day(match: Match) -> str:
    named = match.string[match.end() : match.end() + 1] in ("日", "号")
    return f"{int(match['m'])}月{int(match['d'])}{'' if named else '日'}"


DURATIONS = (
    rule(
        "时长",
        rf"(?:(?<={_LASTS}[是为约达共：:]{{0,2}}\s?)(?P<h>\d{{1,3}}):(?P<m>[0-5]?\d)|(?<=(?:{TIMED.pattern})[是为约达共：:]{{0,2}}\s?)(?P<m>\d{{1,3}})"
        rf"|(?<={_LASTS}[是为约达共：:]{{0,2}}\s?)(?P<m>2[5-9]|[3-9]\d|1\d\d)"
        r"|(?<![\d:.])(?P<m>[0-5]?\d)(?=:[0-5]\d\.\d{1,3}(?!\d)))"
        r":(?P<s>[0-5]\d)(?P<f>\.\d+)?(?![\d:]|[-–—~～]\d)",
        _duration,
        ":",
    ),
    rule(
        "分和秒的符号",
        r"(?<![\d.°A-Za-z]|°\s)(?P<m>\d{1,2})['′’](?P<s>[0-5]\d)(?:''|′′|’’|[\"″”])",
        _pace,
        "'′’",
    ),
    rule(
        "字母写的时长",
        r"(?<![\d.A-Za-z])(?P<h>\d{1,3})\s?h\s?(?P<m>[0-5]?\d)\s?(?:min|m)(?:\s?(?P<s>[0-5]?\d)\s?s)?(?![A-Za-z\d])",
        _in_letters,
        "h",
    ),
    rule("零点", r"(?<![\d:.])0(?=:[0-5]\d(?![\d:]))", lambda match: "00", ":"),
)
DATES = (
    rule(
        "时间戳",
        r"(?<![\d-])(?P<date>[12]\d{3}-\d\d-\d\d)T(?P<time>\d\d:\d\d(?::\d\d)?)(?:\.\d+)?(?P<zone>Z|[-+]\d\d:?00)?(?![\d:])",
        _moment,
        "T",
    ),
    rule(
        "日期和时刻",
        r"(?<![\d./-])(?P<m>0[1-9]|1[0-2])[-/](?P<d>0[1-9]|[12]\d|3[01])\s(?=\d{1,2}:\d\d)",
        lambda match: f"{_month_and_day(match)}，",
        ":",
    ),
    rule(
        "八位日期",
        rf"(?<![\d.A-Za-z-])(?P<y>19\d\d|20[0-4]\d)(?P<m>0[1-9]|1[0-2])(?P<d>0[1-9]|[12]\d|3[01])(?:[日号](?!\d)|{COUNTED}(?![A-Za-z]))",
        lambda match: f"{match['y']}年{int(match['m'])}月{int(match['d'])}日",
    ),
    rule(
        "星期后的日期",
        r"(?<=(?:周|星期)[一二三四五六日天]\s?[（(])(?P<m>0?[1-9]|1[0-2])[-/.](?P<d>0?[1-9]|[12]\d|3[01])(?=[）)])",
        _month_and_day,
        "-/.",
    ),
    rule(
        "三个数字与斜杠",
        rf"(?<![\d./A-Za-z])(?:(?P<y>[23]\d)/{_MONTH_AND_DAY.format('m', 'd', '/')}(?!\s?[期元个人级])"
        r"|\d{1,3}(?:/\d{1,3}){2,})(?![\d./A-Za-z])",
        _slashes,
        "/",
    ),
    rule(
        "日期",
        rf"(?<![\d.])(?P<y>[12]\d{{3}})\.{_MONTH_AND_DAY.format('m', 'd', '[.]')}"
        rf"(?:{_DASH}{_MONTH_AND_DAY.format('n', 'e', '[.]')})?(?:[日号](?!\d)|(?![\d.]))",
        _date,
        ".",
    ),
    rule(
        "日期的后半",
        rf"(?<=[12]\d{{3}}-\d\d?-\d\d?\s?[至到~～—]\s?){_MONTH_AND_DAY.format('m', 'd', '-')}(?![\d-])",
        _month_and_day,
        "-",
    ),
)
TIMES = (
    rule("上下午", r"(?P<time>\d{1,2}:\d{2})\s?(?P<half>[AaPp])\.?[Mm](?![A-Za-z])\.?", _half, ":"),
    rule("时间范围", rf"(?P<first>\d{{1,2}}:\d{{2}}){_DASH}(?P<last>\d{{1,2}}:\d{{2}})", _times, ":"),
    rule(
        "时刻",
        r"(?<![\d:：.A-Za-z/-])(?P<hour>[01]?\d|2[0-4]):(?P<minute>[0-5]\d)(?![\d:：A-Za-z]|\.\d|\s?[AaPp]\.?[Mm])",
        _time,
        ":",
    ),
)
MONTH_AND_DAY = rule(
    "月和日",
    rf"(?<![\d./]){_MONTH_AND_DAY.format('m', 'd', '/')}"
    r"(?:(?=[日号])|(?=[之以]?前(?!\d)|当天|截止|开始|[上下]午|早上|晚上|[（(]周)|(?<=(?:公历|农历|阳历|阴历|日期[是为：:]?)\d\d?/\d\d?)(?![\d./]))",
    _month_and_day,
    "/",
)
