"""Numbers of Chinese text that name something: shopping days, universities, services, roads, hospitals, aircraft."""

from __future__ import annotations

import regex

from services.encode.text.reading.chinese.numbers import TELEPHONE_DIGITS, spelled

_ALONE = r"(?<![\dA-Za-z.,:：/·点+-])"
COUNTED = (
    r"(?!\d|[.,:：/·%‰°℃-]"
    r"|\s?[多余几]?[元块万亿人名个位件家台辆套本页字米里斤吨克升户票步天年月日号度分秒倍款只条张次种所平])"
)
_DAY = r"(?:1[0-2]|[1-9])MARK(?:3[01]|[12]\d|[1-9])"
DAY_NAMES = r"年中大促|年货节|晚会|事件|事变|恐袭|运动|惨案|购物节|大促"
"""What makes a month and a day a name, as in 3.15晚会."""
HOLIDAYS = (
    r"劳动节|国庆|黄金周|长假|小长假|放假|儿童节|妇女节|青年节|建军节|元旦|圣诞|平安夜|情人节|愚人节|教师节|植树节|开学"
)
"""What makes a month and a day a date, as in 10.1国庆."""
HOLIDAY = rf"(?<![\d.])(?P<m>1[0-2]|[1-9])\.(?P<d>3[01]|[12]\d|[1-9])(?={HOLIDAYS})"
_NAMED_DAYS = {"3.8": "三八", "5.1": "五一", "5.4": "五四", "6.1": "六一", "8.1": "八一", "10.1": "十一"}
NAMES = regex.compile(
    rf"""{_ALONE}(?:
    (?P<telephone>(?:110|119|120|122|114|12306|12[0-9]{{3}}|9[56][0-9]{{3}}|10086|10010|10000)
        (?=反诈|专线|市民热线|服务热线|政务|App|APP|报警|急救|火警|指挥中心|接警|出警|救护车|热线|客服|电话|网站|官网|平台|短信|查号台)
    |(?<=交管|铁路)12\d{{3}}(?!\d)|(?<=火警|匪警|报警|急救|查号台?|求救)1[12]\d(?!\d)|(?<=(?:(?<!拨)打|[叫呼])了?(?:1\d\d[或、和])?)(?:110|119|120|122|911|112)(?=报警|急救|求助|电话|[，。！？；、或和吧了”）\s]|$))
    |(?P<name>618(?=大促|购物|年中|电商|狂欢|预售|活动|促销|优惠|期间|当天|前夕|囤货|红包|满减|战报|直播|特惠|之后|之前|来临)
    |(?<=京东|天猫|淘宝|拼多多|双11[和、与]|今年|去年|每年|历年|明年)618{COUNTED}
    |315(?=晚会|打假|消费者|维权|曝光)
    |(?<=^|[，。！？!?\s~～…“哈太真扣刷]|老铁|主播|大佬|兄弟|操作)(?:6{{3,}}|23{{3,}})(?=[啊呀哦哈了笑！!？~～…，。”\s]|$)
    |(?:996|997|955)(?=工作制|制|加班|模式|福报|文化|的工作)
    |(?:985|211)(?=[、/和与及或]?(?:985|211)?(?:高校|大学|工程|院校|名校|学校|毕业|本科|硕士|博士|研究生))
    |985(?=[、/和与及或]211(?!\d))
    |(?<=985[、/和与及或])211{COUNTED}
    |52[01](?=快乐|表白|情人节|礼物|告白|当天|文案)
    |\d{{3,4}}(?=事变|惨案|起义|恐袭|恐怖袭击|国道|省道|县道|购物节)(?<!\d00)
    |\d{{3}}(?=医院)(?<!\d00)|\d{{3,5}}(?=部队)(?<!\d00)
    |911(?=事件)|404(?=页面)|[1-5]\d\d(?=错误|报错|状态码|响应码)(?<!00)
    |(?<=国道|省道|县道)\d{{3}}(?!\d|[.%公千]|\s?[万亿条米])
    |(?<=波音|空客|骁龙|麒麟|酷睿|标致|宝马)\d{{3,4}}(?<!\d00){COUNTED}
    |{_DAY.replace("MARK", "[·•・]")}(?![\d·•・]|\s?[=×+÷])|{_DAY.replace("MARK", "[.]")}(?={DAY_NAMES})
    ))""",
    regex.VERBOSE,
)
"""A number without a noun that it counts, before or after the word that makes it a name."""
RATED_UNIVERSITIES = regex.compile(r"(?<=985)/(?=211)|(?<=211)/(?=985)")


def named(match: regex.Match[str]) -> str:
    """Read what `NAMES` matched digit by digit; numbers of telephones with 幺."""
    if match["telephone"]:
        return "".join(TELEPHONE_DIGITS[int(digit)] for digit in match["telephone"])
    return spelled("".join(char for char in match["name"] if char.isdecimal()))


def holiday(match: regex.Match[str]) -> str:
    """Read 5.1 before 劳动节 as 五一, and 12.25 before 圣诞节 as a date."""
    return _NAMED_DAYS.get(match.group()) or f"{match['m']}月{match['d']}日"
