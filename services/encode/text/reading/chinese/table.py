"""Rules for Chinese: what is read before wetext, because wetext reads it as another value, and what is mended after it.

Without wetext the rules apply as well; digits that they leave stay digits, which the models can pronounce.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

import regex

from services.encode.text.reading.chinese.arithmetic import ARITHMETIC, SLASHES
from services.encode.text.reading.chinese.identifiers import (
    ABBREVIATIONS,
    ADDRESSES,
    LETTERED,
    NUMBERED,
    RESULTS,
    ROMAN,
    WORDED,
)
from services.encode.text.reading.chinese.money import MONEY
from services.encode.text.reading.chinese.names import HOLIDAY, NAMES, RATED_UNIVERSITIES, holiday, named
from services.encode.text.reading.chinese.numbers import DIGITS, TELEPHONE_DIGITS, TWO, number, read_plain, two
from services.encode.text.reading.chinese.ranges import DAYS, RANGES, SCORES
from services.encode.text.reading.chinese.times import DATES, DURATIONS, MONTH_AND_DAY, TIMES
from services.encode.text.reading.chinese.units import LETTERS, SERVICE_NUMBER, UNITS
from services.encode.text.reading.chinese.years import YEARS
from services.encode.text.reading.quick.chinese import read_quickly
from services.encode.text.reading.rule import Match, RuleSet, rule

_DASH = r"\s?[-–—~～−]\s?"
_OUTSIDE = r"(?<![\dA-Za-z.,^-])"
_NUMBER = r"\d+(?:\.\d+)?"
_CODE_WORDS = (
    r"端口号?|邮编|邮政编码|编号|编码|号码|账号|帐号|卡号|密码|验证码|校验码|动态码|短信码|识别码|核销码|提取码|取件码|提货码|状态码|邀请码|兑换码|优惠码|代码|口令|订单号?|单号|工号|学号|"
    r"后[四4六6]位|房间号?|客房|包厢|房号|门牌号?|座位号?|尾号|身份证号?|车牌号?|航班号?|车次|病历号|会员号|合同号|保单号|发票号|流水号|序列号|批号|型号|QQ号?|微信号?|(?<![A-Za-z])(?:ID|PIN码?|ISBN|ISSN|IMEI)|"
    r"分机号?|转|工单号?|会议号|用户名?|(?<![A-Za-z])HTTP"
)
_AFTER_CODE_WORD = regex.compile(rf"(?i:{_CODE_WORDS})[是为]?\s?[:：]?$")
_OPERATORS = {
    "+": "加", "=": "等于", "×": "乘以", "÷": "除以", "<": "小于", ">": "大于", "≤": "小于等于",
    "≥": "大于等于", "≠": "不等于",
}  # fmt: skip
_WIDE_COLON = regex.compile(r"(?<=\d)(?<!(?:[A-Za-z]|[图表式例题问答注录案])\d{1,2})：(?=\d)")
_MINUS = regex.compile(r"(?<=\p{Han})−(?=\d)")
"""wetext reads only the hyphen before a number as a minus."""
_RATIO = regex.compile(r"(?<=\d)\s?∶\s?(?=\d)")
_SERVICE_DIGITS = 5
"""Digits of 12,345, which wetext without the comma reads as the number of a service."""
_ALONE = regex.compile(r"(?:^|[\p{Han}：，。、（(\s])$")
_ENDS = regex.compile(r"$|[\s，。、；！？）)]|(?![万亿千])\p{Han}")
_FIRST_THREE = regex.compile(r"[1-3](?!\d|\.\d)")
_BLANK = regex.compile(r"(?<=\p{Han}) (?=\d)|(?<=\d) (?=\p{Han})|(?<=\d) (?=[:/] \d)|(?<=\d [:/]) (?=\d)")
"""A blank that is not spoken and keeps the rules from a number: 2024 年, 14 : 30."""
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_LISTED = regex.compile(
    r"(?<=[\p{Han}A-Za-z”’）)]) +(?=[1-9]\d?(?:、|[.．]\s?)\p{Han})|(?<=[\p{Han}”’）)]) +(?=[1-9]\d?、\s*$)"
)
"""The blank before an item of a list in one line: 1、打开 2、关闭."""
_LETTER_PAIR = regex.compile(r"(?<=[A-Za-z])-?(\d{3,})")


def digits(written: str) -> str:
    """Read digit by digit."""
    return "".join(DIGITS[int(char)] if char.isdigit() else char for char in written)


def _telephone(match: Match) -> str | None:
    written = match.group()
    parts = regex.findall(r"\d+", written)
    if "+" in written and sum(map(len, parts)) < 7:
        return None  # 12+512GB
    words = "，".join("".join(TELEPHONE_DIGITS[int(digit)] for digit in part) for part in parts)
    return f"加{words}" if written.lstrip("(（").startswith("+") else words


def _address(match: Match) -> str | None:
    parts = match["host"].split(".")
    if any(int(part) > 255 for part in parts):
        return None
    words = "点".join(digits(part) for part in parts)
    return f"{words}冒号{digits(match['port'])}" if match["port"] else words


def _version(match: Match) -> str:
    written = match.group()
    if regex.fullmatch(r"[1-9]\d{0,2}(?:\.\d{3}){2,}", written):  # 1.234.567
        return written.replace(".", "")
    return written.replace(".", "点")


def _joined(match: Match) -> str:
    joined = regex.sub(r"[,， \u00a0\u202f'’]", "", match.group())
    read = len(joined) == _SERVICE_DIGITS and _ALONE.search(match.string, 0, match.start()) is not None
    return number(joined) if read and _ENDS.match(match.string, match.end()) is not None else joined


def _ion(match: Match) -> str:
    """Read Fe³⁺ and Cl⁻."""
    charges = digits(match["n"].translate(_SUPERSCRIPTS)) if match["n"] else ""
    return f"{charges}{'加' if match['sign'] == '⁺' else '负'}"


def _raised(match: Match) -> str:
    """Write 10⁻³ as 10的负3次方."""
    exponent = match.group().translate(_SUPERSCRIPTS)
    return f"的{'负' if exponent[0] == '-' else ''}{exponent.lstrip('+-')}次方"


def _names(match: Match) -> str:
    """Read the number of a flight or a train, and of a room, digit by digit."""
    return _LETTER_PAIR.sub(lambda run: digits(run[1]), match.group())


def _degrees(match: Match) -> str:
    return f"度{match['m']}分" + (f"{match['s']}秒" if match["s"] else "")


def _scientific(match: Match) -> str:
    exponent = match["exponent"]
    sign = "负" if exponent[0] in "-−" else ""
    return f"{match['base']}乘以10的{sign}{exponent.lstrip('+-−')}次方"


def _power(match: Match) -> str:
    exponent = match["exponent"]
    if not match["sign"] and exponent in ("2", "3"):
        of = "的" if match.string[match.start() - 1].isdigit() else ""
        return f"{of}平方" if exponent == "2" else f"{of}立方"
    return f"的{'负' if match['sign'] else ''}{exponent}次方"


def _pages(match: Match) -> str:
    return f"第{match['first']}到{match['last']}页" if match["last"] else f"第{match['first']}页"


def _number_sign(match: Match) -> str:
    if match.group()[0] in "№#":
        return "编号"
    return "第" if _FIRST_THREE.match(match.string, match.end()) else "No "


def _hidden(match: Match) -> str:
    """Read 138****1234."""
    said = TELEPHONE_DIGITS if regex.match(r"1[3-9]\d", match["first"]) else DIGITS
    return "，星号，".join("".join(said[int(digit)] for digit in match[part]) for part in ("first", "last"))


BEFORE = RuleSet(
    rule("网址开头", r"(?<![A-Za-z])https?://", lambda match: "", "/"),
    rule("首字母", r"(?<![A-Za-z])(?:[A-Z]\.){2,}", lambda match: match.group().replace(".", ""), "."),
    rule("百分号前的空格", r"(?<=\d)\s+(?=[%‰℃°])", lambda match: "", "%‰℃°"),
    *DURATIONS,
    rule("全天候", r"(?<![\d/.])24/7(?![\d/])", lambda match: "24小时7天", "/"),
    rule(
        "编号符号",
        r"(?:№|(?<![A-Za-z])[Nn][Oo]\.)\s?(?=\d)|\#(?=\d)",
        _number_sign,
        "№.#",
    ),
    rule(
        "页码",
        r"(?<![A-Za-z.])[Pp]{1,2}\.\s?(?P<first>\d{1,4})(?:\s?[-–—~～]\s?(?P<last>\d{1,4}))?(?![\dA-Za-z-]|\.\d)",
        _pages,
        ".",
    ),
    rule(
        "查询中的星号", r"(?<=(?<![A-Za-z])(?i:select)\s)\*(?![\w*])|(?<=[A-Za-z]\()\*(?=\))", lambda match: "星号", "*"
    ),
    rule("小数点开头", r"(?<![\dA-Za-z.])\.(?=\d)", lambda match: "0.", "."),
    *ABBREVIATIONS,
    *ROMAN,
    rule("词前的点", r"(?<![A-Za-z0-9.)）\]\"”])\.(?=(?:NET|[a-z]{2,5})(?![A-Za-z]))", lambda match: "点", "."),
    rule("网址中的点", r"(?<=[A-Za-z])\.(?=[A-Za-z0-9])|(?<=[A-Za-z0-9])\.(?=[A-Za-z])", lambda match: "点", "."),
    rule("节日", HOLIDAY, holiday, "."),
    rule("两类高校", RATED_UNIVERSITIES.pattern, lambda match: "、", "/"),
    rule("数字名称", NAMES.pattern, named),
    rule("IP 地址", r"(?<![\d.])(?P<host>(?:\d{1,3}\.){3}\d{1,3})(?::(?P<port>\d{1,5}))?(?![\d.])", _address, "."),
    rule(
        "第几页共几页",
        r"第(?P<page>\d{1,4})/(?P<last>\d{1,4})(?P<of>[页题步集章])",
        lambda m: f"第{m['page']}{m['of']}，共{m['last']}{m['of']}",
        "/",
    ),
    *DATES,
    rule("版本号", r"(?<![\d.])\d+(?:\.\d+){2,}(?!\d|\.\d)", _version, "."),
    rule(
        "千位分隔",
        r"(?<![\d.,]|\d，)[1-9]\d{0,2}(?:,\d{3})+(?!\d|,\d)|(?<![\d.,])[1-9]\d?(?:,\d\d)+,\d{3}(?!\d|,\d)",
        _joined,
        ",",
    ),
    rule(
        "千位空格",
        r"(?<![\d.,]|\d[ ])[1-9]\d{0,2}(?:([ \u00a0\u202f'’])\d{3})(?:\1\d{3})*(?![\d]|[ -]\d)",
        _joined,
        " \u00a0\u202f'’",
    ),
    *NUMBERED,
    *RESULTS,
    rule(
        "国际电话",
        r"(?<![\dA-Za-z]|\d[-\s])(?:[（(]?\+\d{1,3}[)）]?|00[1-9]\d{1,2}(?=[\s-]))(?:[\s-]?[(（]?\d{2,11}[)）]?){1,5}(?!\d)",
        _telephone,
        "+0",
    ),
    rule("隐去的号码", r"(?<!\d)(?P<first>\d{2,6})\*{2,}(?P<last>\d{2,6})(?!\d)", _hidden, "*"),
    rule("手机号", r"(?<![\d.]|\d\s)1[3-9]\d[\s-]?\d{4}[\s-]?\d{4}(?![\d.])", _telephone),
    rule(
        "固定电话",
        r"(?<![\d.]|\d\s)(?:[（(]0\d{2,3}[)）]\s?|0\d{2,3}[\s-])\d{3,4}[\s-]?\d{4}(?:-\d{1,5})?(?!\d)|(?<![\d.-])(?:[48]00[-\s]\d{3}[-\s]?\d{4}|86-\d{2,3}-\d{7,8})(?!\d)|(?<=(?:电话[是为：:]?\s?|热线[是为：:]?\s?|拨打?\s?|致电\s?)(?:\d[\d-]{2,14}[或、和])?)\d{3,8}(?:-\d{3,8})*(?!\d)",
        _telephone,
    ),
    rule(
        "号码",
        rf"(?P<before>(?i:{_CODE_WORDS})\s?[是为]?\s?[:：]?\s?[【\#]?(?:[A-Z]{{1,2}}(?:-(?=\d+-\d))?)?)(?P<number>\d{{2,}}(?:-\d+|\s\d{{3,}}(?![\d.:A-Za-z%\p{{Han}}]))*|\d(?:-\d+){{2,}})(?![\d.%]|[:：]\d|年|月)",
        lambda match: match["before"].removesuffix("-") + digits(regex.sub(r"[-\s]", "，", match["number"])),
    ),
    rule(
        "房间",
        r"(?<![\d.:A-Za-z-])\d{3,4}(?=室|会议室|教室|病房|包间|包厢|号房|房间(?!里|内)|房(?![间价子租贷源型产屋东客地主改])|号病床)",
        lambda match: digits(match.group()),
    ),
    *ADDRESSES,
    *LETTERED,
    rule("显卡", r"(?<=(?<![A-Za-z])[RG]TX?[ ])\d{4}(?![\dA-Za-z.]|\s?[元块万])", lambda match: digits(match.group())),
    rule("字母编号", r"(?<![A-Za-z\d])(?!USD|CNY|RMB|EUR|JPY|HKD|GBP|KRW)[A-Z]{1,3}-?\d{3,}(?![A-Za-z\d-])", _names),
    rule("季度", r"(?<!\d)(?:19|20)\d\d(?=[Qq][1-4](?!\d))", lambda match: f"{digits(match.group())}年"),
    rule(
        "科学记数",
        rf"(?<![A-Za-z0-9.])(?P<base>{_NUMBER})[eE](?P<exponent>[-+−]?\d{{1,3}})(?![A-Za-z0-9]|\.\d)",
        _scientific,
        "eE",
    ),
    rule("离子", r"(?<=[A-Za-z][₀-₉0-9]?|[)）\]])(?P<n>[²³⁴-⁹])?(?P<sign>[⁺⁻])(?![⁰¹²³⁴-⁹])", _ion, "⁺⁻"),
    rule("高次方", r"(?<=[\dA-Za-z)）])(?:[⁻⁺]?[⁰¹²³⁴-⁹]*[⁰¹⁴-⁹][⁰¹²³⁴-⁹]*|[⁻⁺][²³])(?![⁻⁺])", _raised, "⁰¹²³⁴⁵⁶⁷⁸⁹"),
    rule(
        "快捷键",
        r"(?<![A-Za-z\d])(?P<key>(?i:ctrl|cmd|alt|shift|command|control|option|win|fn))\s?\+\s?(?=[A-Za-z\d])",
        lambda match: f"{match['key']}加",
        "+",
    ),
    rule(
        "证券代码",
        r"(?<=[（(])\d{6}(?=[）)])|(?<![\dA-Za-z.])\d{4,6}(?=点(?:S[HZ]|HK|BJ)(?![A-Za-z]))",
        lambda match: digits(match.group()),
    ),
    rule(
        "长编号",
        r"(?<![A-Za-z\d-])[A-Z]{1,3}\d{5,}(?:-\d+)+(?![A-Za-z\d-])",
        lambda match: digits(match.group()).replace("-", "，"),
        "-",
    ),
    *ARITHMETIC,
    *MONEY,
    *SCORES,
    *TIMES,
    DAYS,
    *YEARS,
    *LETTERS,
    *RANGES,
    rule(
        "字母后的涨跌",
        r"(?<=(?<![A-Za-z])[A-Z]{2,6})(?=[-－−+]\d+(?:\.\d+)?%)",
        lambda match: " ",
        "%",
    ),
    rule("字母与数字之间的加号", r"(?<=[A-Za-z])\+{1,2}(?=\d)", lambda match: "加" * len(match[0]), "+"),
    rule("字母与数字之间的连字符", r"(?<=[A-Za-z](?:\d+(?:\.\d+)?)?)[-－](?=\d)", lambda match: " ", "-－"),
    rule("乘方", r"(?<=[\dA-Za-z)）])\^\(?(?P<sign>[-−])?(?P<exponent>\d{1,3})\)?", _power, "^"),
    rule(
        "字母次方",
        r"(?<=[\dA-Za-z)）])\^\(?(?P<exponent>[a-z])\)?(?![A-Za-z\d])",
        lambda match: f"的{match['exponent']}次方",
        "^",
    ),
    rule(
        "数的平方",
        r"(?<=(?<![A-Za-z\d.])\d+)[²³](?![A-Za-z\d])",
        lambda match: "的平方" if match.group() == "²" else "的立方",
        "²³",
    ),
    *UNITS,
    rule(
        "米和秒后的小数",
        r"(?:(?<=\d[米秒])[1-9]\d|(?<=\d秒)\d{3})(?![\d.%]|\s?[A-Za-z厘毫米公个人次分秒])",
        lambda match: digits(match.group()),
    ),
    MONTH_AND_DAY,
    *SLASHES,
    rule(
        "乘号",
        r"(?<=[\d\p{Han}A-Za-z)）])\s?×\s?(?=[\d(（])|(?<=\d)(?<![A-Za-z]\d{1,4})\s?[*xX]\s?(?=\d)",
        lambda match: "乘",
        "*xX×",
    ),
    rule("度分秒", r"(?<=\d)\s?°\s?(?P<m>\d{1,2})\s?['′](?:\s?(?P<s>\d{1,2})\s?[\"″])?", _degrees, "°"),
    rule("括号后的数字", r"(?<=[（(][\d一二三四五六七八九十]{1,3}[）)])(?=\d)", lambda match: "，", "）)"),
    rule(
        "算式",
        r"(?<=(?<![A-Za-z])[A-Za-z]|[²³方)])\s?(?P<sign>[+=×÷<>≤≥≠])\s?(?=[A-Za-z](?![A-Za-z])|[\d(√])",
        lambda match: _OPERATORS[match["sign"]],
        "+=×÷<>≤≥≠",
    ),
    rule("阶乘", r"(?<=(?<![A-Za-z\d.])(?:\d{1,3}|n))!(?=\s?(?:[=×/÷]|等于))", lambda match: "的阶乘", "!"),
    rule("千分号", rf"(?P<value>{_NUMBER})\s?‰", lambda match: f"千分之{match['value']}", "‰"),
    rule(
        "比较",
        r"(?:(?<=\p{Han})\s?(?P<sign>=)|(?<![-=<>!])\s?(?P<sign>[≤≥<>]))\s?(?=-?\d|(?<=\d\s?[<>≤≥]\s?)[A-Za-z](?![A-Za-z]))",
        lambda match: _OPERATORS[match["sign"]],
        "≤≥<>=",
    ),
    rule("省略号旁的加号", r"(?<=…)\+(?=\d)|(?<=\d)\+(?=…)", lambda match: "加", "…"),
    rule("约", r"(?<![\w)）%])≈\s?(?=\d)", lambda match: "约", "≈"),
    rule("根号", r"√\s?(?=[\dA-Za-z(])", lambda match: "根号", "√"),
    rule("数字之间的空格", r"(?<=\d)\s(?=\d)", lambda match: "，"),
    *WORDED,
    rule("二和两", TWO.pattern, two, "2"),
    rule("首零", r"(?<![\d.:：点年/-])0\d+(?![\d:：/-]|\.\d)", lambda match: digits(match.group()), "0"),
    rule("长串数字", r"(?<![\d.])\d{9,}(?!\d|\.\d)", lambda match: digits(match.group())),
    SERVICE_NUMBER,
)
"""Rules in their order. Their results may hold digits, which wetext reads."""
AFTER = RuleSet(
    rule(
        "邮箱符号",
        rf"(?<=[A-Za-z0-9{DIGITS}])@(?=[A-Za-z0-9{DIGITS}])",
        lambda match: " at ",
        "@",
    ),
    rule(
        "词中的点",
        r"(?<=[A-Za-z0-9零一二三四五六七八九十])\.(?=[A-Za-z0-9零一二三四五六七八九])",
        lambda match: "点",
        ".",
    ),
)
_OF_INTEREST = regex.compile(
    r"[*√\d%‰¥$€£+=×÷@#/^<>°℃℉±~№\u00b2\u00b3⁰-⁹⁺⁻]|(?<=[A-Za-z0-9])\.|\.(?=[A-Za-z0-9])|[-–—~～](?=周|星期)"
)
_OTHER_DIGIT = re.compile(r"[^\D0-9]")
_CLAUSE = regex.compile(r"[^，。！？；、：“”‘’（）《》【】…\n!?;]+")
_READ_BY_WETEXT = regex.compile(r"[\d%‰¥$€£°℃℉±×÷=]")


def read_chinese(text: str, wetext: Callable[[str], str] | None) -> str:
    """Return the sentence with numbers in Chinese words. Without `wetext` only what the rules read changes."""
    text = _MINUS.sub("-", text)
    text = _RATIO.sub("比", _WIDE_COLON.sub(":", text.replace("￥", "¥")))
    if _OF_INTEREST.search(text) is None:
        return text
    text = _BLANK.sub("", _LISTED.sub("，", text))
    if _OTHER_DIGIT.search(text) is not None:
        text = "".join(
            str(unicodedata.decimal(char)) if char > "\x7f" and unicodedata.category(char) == "Nd" else char
            for char in text
        )
    if wetext is not None and (quick := read_quickly(text, _AFTER_CODE_WORD)) is not None:
        return quick
    return read_by_rules(text, wetext)


def read_by_rules(text: str, wetext: Callable[[str], str] | None) -> str:
    """Return what `read_chinese` returns, by the rules and wetext alone."""
    text = BEFORE(text)
    if wetext is not None:
        text = _CLAUSE.sub(lambda clause: _clause(clause.group(), wetext), text)
        text = regex.sub(r"\d+", lambda left: digits(left.group()), text)
    return AFTER(text)


def _clause(clause: str, wetext: Callable[[str], str]) -> str:
    if _READ_BY_WETEXT.search(clause) is None:
        return clause
    plain = read_plain(clause)
    return wetext(clause) if plain is None else plain
