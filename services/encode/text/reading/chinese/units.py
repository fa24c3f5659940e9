"""Units in Chinese. wetext reads the first letters of a unit that it lacks: of 5mL five meters, then L."""

from __future__ import annotations

import regex

from services.encode.text.reading.chinese.numbers import MEASURE, number, spelled
from services.encode.text.reading.rule import Match, rule

_NAMES = {
    "mL": "毫升", "dL": "分升", "mol": "摩尔", "mmol": "毫摩尔", "μmol": "微摩尔", "µmol": "微摩尔", "umol": "微摩尔",
    "nmol": "纳摩尔", "pmol": "皮摩尔", "mg": "毫克", "μg": "微克", "µg": "微克", "ng": "纳克", "pg": "皮克", "t": "吨",
    "IU": "国际单位", "mmHg": "毫米汞柱", "mA": "毫安", "mAh": "毫安时", "Ah": "安时", "kV": "千伏", "mV": "毫伏",
    "mIU": "毫国际单位",
    "kWh": "千瓦时", "MWh": "兆瓦时", "MW": "兆瓦", "GW": "吉瓦", "mW": "毫瓦", "Wh": "瓦时", "kΩ": "千欧", "Ω": "欧姆",
    "Hz": "赫兹", "kHz": "千赫", "MHz": "兆赫", "GHz": "吉赫", "Pa": "帕", "hPa": "百帕", "kPa": "千帕", "MPa": "兆帕",
    "kJ": "千焦", "cal": "卡", "dB": "分贝", "μm": "微米", "µm": "微米", "kbps": "千比特每秒", "Mbps": "兆比特每秒",
    "Gbps": "吉比特每秒",
    "bp": "个基点", "bps": "个基点", "BP": "个基点", "pct": "个百分点", "pcts": "个百分点", "pp": "个百分点",
    "m/s²": "米每二次方秒", "MB/s": "兆字节每秒", "KB/s": "千字节每秒", "GB/s": "吉字节每秒",
    "KG": "千克", "Kg": "千克", "KM": "千米", "Km": "千米", "CM": "厘米", "MM": "毫米", "ML": "毫升", "KW": "千瓦",
    "KWh": "千瓦时", "KWH": "千瓦时", "KV": "千伏", "m/s2": "米每二次方秒", "hm²": "公顷",
    "fps": "帧每秒", "bpm": "次每分",
}  # fmt: skip
_AFTER_MYRIAD = {
    "m³": "立方米", "m²": "平方米", "km²": "平方公里", "m": "米", "km": "公里", "kg": "千克", "kW": "千瓦",
    "kWh": "千瓦时", "MW": "兆瓦", "GW": "吉瓦", "t": "吨", "L": "升", "Pa": "帕",
}  # fmt: skip
"""Units after 万 and 亿, where wetext reads none."""
_INGREDIENTS = "[盐糖油粉精酱醋酒蜜椒姜蒜葱肉菜水奶酵母豆米]"
_OPEN_QUOTE = regex.compile(r'(?<!\d)"')
_LETTERS = {"g": "克", "V": "伏"}
"""Units that are something else after one digit (5G, 3V3)."""
_BEFORE_SLASH = {"g": "克", "kg": "千克", "W": "瓦", "U": "单位"}
_PER = {
    "L": "升", "dL": "分升", "mL": "毫升", "kg": "千克", "g": "克", "km": "公里", "h": "小时", "min": "分钟", "s": "秒",
    "d": "天", "m2": "平方米", "m3": "立方米", "kWh": "千瓦时", "m²": "平方米", "m³": "立方米", "cm³": "立方厘米",
    "cm²": "平方厘米",
}  # fmt: skip


def _any(names: dict[str, str]) -> str:
    return "|".join(sorted(map(regex.escape, names), key=len, reverse=True))


_EACH = rf"\s?/\s?(?P<per>{_any(_PER)})(?![A-Za-z²³])"


def _unit(match: Match) -> str:
    name = match["unit"]
    per = f"每{_PER[match['per']]}" if match["per"] else ""
    return (_NAMES | _LETTERS | _BEFORE_SLASH)[name] + per


def _pressure(match: Match) -> str:
    return f"{match['over']}比{match['under']}"


def _inches(match: Match) -> str | None:
    """Leave the mark that closes a quotation."""
    before = match.string[: match.start()]
    if match.group().strip() == '"':
        is_closing = len(_OPEN_QUOTE.findall(before)) % 2 == 1
    else:
        is_closing = before.count("“") > before.count("”")
    return None if is_closing else "英寸"


def _letter_w(match: Match) -> str | None:
    """Read the w of 1.2w as 万 and that of 67W快充 as 瓦; a capital without such a word stays."""
    if match["watts"] is not None or (match["sum"] or "").startswith(("功", "快", "闪", "超", "充")):
        return "瓦"
    return "万" if match["w"] == "w" or match["sum"] else None


LETTERS = (
    rule("型号中的行数", r"(?<![\d.])(?:360|480|540|720|1080|1440|2160)(?=[pPi](?![A-Za-z]))", lambda m: spelled(m[0])),
    rule(
        "万和瓦",
        r"(?<=(?P<sum>功[率耗][为是约达]?|[快闪超]充|充电|年薪|月薪|粉丝|播放量?|阅读量?|点赞量?|浏览量?|存款|营收|房价|预算)?[\d.]*\d)(?P<w>[wW])"
        r"(?![A-Za-z\d])(?P<watts>(?=\s?(?:有线|快充|充电|超充|闪充|功率|适配|无线|灯|音响|喇叭|激光|电机|输出|电)))?",
        _letter_w,
        "wW",
    ),
    rule("千和万的范围", r"(?<=\d[kKwW万千])\s?[-–—~～]\s?(?=\d)", lambda match: "到", "-–—~～"),
    rule("多", rf"(?<=(?<![\d.])[1-9]\d*0)\+(?={MEASURE})", lambda match: "多", "+"),
    rule("加", r"(?<=\d[kKwW万千亿%]?元?)\+(?=\p{Han}|[，。、；：！？）)”]|$)", lambda match: "加", "+"),
)
"""Letters and signs after a number that are neither units nor names: 1.2w, 10+."""
UNITS = (
    rule(
        "血压",
        r"(?<![\d./])(?P<over>\d{2,3})/(?P<under>\d{2,3})"
        r"(?:(?=\s?mmHg)|(?<=(?:血压|BP)[是为约：:]{0,2}\s?\d{2,3}/\d{2,3})(?![\d./]))",
        _pressure,
        "/",
    ),
    rule(
        "单位",
        rf"(?<=\d)\s?(?:(?P<unit>{_any(_NAMES)}|(?<=\d\d|\.\d)(?:{_any(_LETTERS)})|(?:{_any(_BEFORE_SLASH)})(?=/))(?:{_EACH})?)"
        r"(?![A-Za-z²³])",
        _unit,
    ),
    rule(
        "万后的单位",
        rf"(?<=\d[万亿])\s?(?P<unit>{_any(_AFTER_MYRIAD)})(?:{_EACH})?(?![A-Za-z²³])",
        lambda match: _AFTER_MYRIAD[match["unit"]] + (f"每{_PER[match['per']]}" if match["per"] else ""),
        "万亿",
    ),
    rule(
        "配料的克",
        rf"(?<=±\d)g(?![A-Za-z])|(?<={_INGREDIENTS}\d)g(?=[，、；。）)\s]|$)|(?<=(?<![\dA-Za-z.])\d)g(?={_INGREDIENTS})",
        lambda match: "克",
        "g",
    ),
    rule(
        "英寸",
        r"(?<=\d)\s?[\"″”](?=\s?(?:显示[器屏]|屏|电视|平板|笔记本|轮[毂胎圈]|水?管|披萨|蛋糕|自行车|液晶|大屏))",
        _inches,
        '"″”',
    ),
    rule("月与月", r"(?<=\d[月日号])/(?=\d+[月日号])", lambda match: "、", "/"),
    rule("每百万", r"(?<=元)\s?/\s?(?=\d+\s?[MKmk](?![A-Za-z])|[百千]?万|千)", lambda match: "每", "/"),
    rule("每百克", r"\s?/\s?(?=100\s?(?:g|mL|ml|克|毫升)(?![A-Za-z]))", lambda match: "每", "/"),
    rule("每百公里", r"(?<=\d)\s?[Ll升]\s?/\s?百公里", lambda match: "升每百公里", "/"),
    rule(
        "每",
        r"(?<=[\d元角分块钱万亿次人转步字方位%张包箱盒瓶袋片粒支枚颗件]|[千公毫]?[克米升]|美元|欧元)\s?/\s?"
        r"(?=[天日月年周次个人名件份斤克公千平小吨张套台晚分秒桶盎度瓶杯袋盒箱包支只条集节课股]|立方)",
        lambda match: "每",
        "/",
    ),
    rule("每一单位", rf"(?<=[元角分块钱万亿次人方克吨秒]){_EACH}", lambda match: f"每{_PER[match['per']]}", "/"),
)
SERVICE_NUMBER = rule(
    "字母前的总机号",
    r"(?<![\d.])(?:11[01249]|12[02])(?=[A-Z+加减乘除等多赫，。、；！？）”]|$)",
    lambda match: number(match.group()),
    "12",
)
"""wetext reads 120 as the number of a service, in 120W too."""
