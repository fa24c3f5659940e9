"""Units in Chinese. wetext reads the first letters of a unit that it lacks: of 5mL five meters, then L."""

from __future__ import annotations

import regex

from services.encode.text.reading.rule import Match, rule

_NAMES = {
    "mL": "毫升", "dL": "分升", "mol": "摩尔", "mmol": "毫摩尔", "μmol": "微摩尔", "µmol": "微摩尔", "umol": "微摩尔",
    "nmol": "纳摩尔", "pmol": "皮摩尔", "mg": "毫克", "μg": "微克", "µg": "微克", "ng": "纳克", "pg": "皮克", "t": "吨",
    "IU": "国际单位", "mmHg": "毫米汞柱", "mA": "毫安", "mAh": "毫安时", "Ah": "安时", "kV": "千伏", "mV": "毫伏",
    "kWh": "千瓦时", "MWh": "兆瓦时", "MW": "兆瓦", "GW": "吉瓦", "mW": "毫瓦", "Wh": "瓦时", "kΩ": "千欧", "Ω": "欧姆",
    "Hz": "赫兹", "kHz": "千赫", "MHz": "兆赫", "GHz": "吉赫", "Pa": "帕", "hPa": "百帕", "kPa": "千帕", "MPa": "兆帕",
    "kJ": "千焦", "cal": "卡", "dB": "分贝", "μm": "微米", "µm": "微米", "kbps": "千比特每秒", "Mbps": "兆比特每秒",
    "Gbps": "吉比特每秒", "fps": "帧每秒", "bpm": "次每分", "hm²": "公顷",
}  # fmt: skip
_LETTERS = {"g": "克", "V": "伏"}
"""Units that are something else after one digit (5G, 3V3)."""
_BEFORE_SLASH = {"g": "克", "U": "单位"}
_PER = {
    "L": "升", "dL": "分升", "mL": "毫升", "kg": "千克", "g": "克", "h": "小时", "min": "分钟", "s": "秒", "d": "天",
    "kWh": "千瓦时", "m²": "平方米", "m³": "立方米",
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


UNITS = (
    rule(
        "血压",
        r"(?<![\d./])(?P<over>\d{2,3})/(?P<under>\d{2,3})"
        r"(?:(?=\s?mmHg)|(?<=血压[是为约：:]{0,2}\d{2,3}/\d{2,3})(?![\d./]))",
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
        "每",
        r"(?<=[\d元角分块钱万亿次人转步字方]|[千公毫]?[克米升]|美元|欧元)\s?/\s?"
        r"(?=[天日月年周次个人名件份斤克公千平小吨张套台晚分秒]|立方)",
        lambda match: "每",
        "/",
    ),
    rule("每一单位", rf"(?<=[元角分块钱万亿次人方克吨]){_EACH}", lambda match: f"每{_PER[match['per']]}", "/"),
)
