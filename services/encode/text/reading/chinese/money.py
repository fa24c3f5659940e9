"""Sums with the sign of a currency in Chinese."""

from __future__ import annotations

from decimal import Decimal

from services.encode.text.reading.rule import Match, rule

_NAMES = {
    "$": "美元", "US$": "美元", "HK$": "港元", "NT$": "新台币", "A$": "澳元", "AU$": "澳元", "C$": "加元",
    "CA$": "加元", "S$": "新加坡元", "NZ$": "新西兰元", "R$": "雷亚尔", "€": "欧元", "£": "英镑", "¥": "元",
    "CN¥": "元", "JP¥": "日元", "₩": "韩元", "฿": "泰铢", "₽": "卢布", "₹": "卢比", "₫": "越南盾",
}  # fmt: skip
_CODES = {"USD": "美元", "EUR": "欧元", "JPY": "日元", "GBP": "英镑", "HKD": "港元", "CNY": "元", "RMB": "元"}
_SIGNS = "$€£¥₩฿₽₹₫"
_CURRENCY = r"(?P<currency>(?<![A-Za-z])(?:US|HK|NT|AU?|CA?|S|NZ|R)\$|(?<![A-Za-z])(?:CN|JP)¥|[$€£¥₩฿₽₹₫])"
_NAMED = r"元|美元|欧元|英镑|港元|港币|美金|日元|韩元|澳元|加元|新台币"
_NUMBER = r"\d+(?:\.\d+)?"
_DASH = r"\s?[-–—~～−]\s?"
_SCALES = {"k": 10**3, "m": 10**6, "mn": 10**6, "b": 10**9, "bn": 10**9, "t": 10**12, "w": 10**4}
_WORDS = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}


def _scaled(number: str, scale: str) -> str:
    """Write 1.5 and M as 150万."""
    word = scale.strip().lower()
    value, unit = Decimal(number) * (_WORDS.get(word) or _SCALES[word]), ""
    if value >= 10**8:
        value, unit = value / 10**8, "亿"
    elif value >= 10**4:
        value, unit = value / 10**4, "万"
    return f"{value.normalize():f}{unit}"


def _sum(match: Match) -> str:
    """Write $1.5M as 150万美元."""
    number = match["value"]
    number = _scaled(number, match["scale"]) if match["scale"] else number.removesuffix(".00")
    return f"{'负' if match['sign'] else ''}{number}{match['more'] or ''}{_NAMES[match['currency']]}"


def _sums(match: Match) -> str | None:
    """Write $10-20 as 10到20美元."""
    if float(match["low"]) >= float(match["high"]) or (match["scale"] and not match["scales"]):
        return None
    low, high = match["low"], match["high"]
    if match["scales"]:
        low, high = _scaled(low, match["scales"]), _scaled(high, match["scales"])
    return f"{low}到{high}{match['more'] or ''}{_NAMES[match['currency']]}"


MONEY = (
    rule("整数金额", rf"(?<=\d)\.00(?=\s?(?:{_NAMED}|块|人民币))", lambda match: "", "."),
    rule(
        "外币范围",
        rf"(?<![A-Za-z\d]){_CURRENCY}\s?(?P<low>{_NUMBER})(?P<scale>[kKwW](?=\s?[-–—~～−]))?{_DASH}(?:(?P=currency))?(?P<high>{_NUMBER})"
        rf"(?P<scales>[kKwW](?![A-Za-z]))?(?P<more>[万亿千百]+)?(?![\d.A-Za-z]|[-–]\d)(?:{_NAMED})?",
        _sums,
        _SIGNS,
    ),
    rule(
        "外币",
        rf"(?P<sign>(?<![\w\d])[-−])?{_CURRENCY}\s?(?P<value>{_NUMBER})(?:\s?(?P<scale>(?:thousand|million|billion|trillion)(?![A-Za-z])|(?:bn|mn|[kKmMbBtTwW])(?![A-Za-z])))?(?P<more>[万亿千百]+)?(?:{_NAMED})?",
        _sum,
        _SIGNS,
    ),
    rule(
        "外币在后",
        rf"(?<=(?<![A-Za-z\d.])[\d.]*\d[万亿]?)\s?(?:(?P<currency>[{_SIGNS}])(?!\s?\d)|(?P<currency>{'|'.join(_CODES)})(?![A-Za-z/]))",
        lambda match: _CODES.get(match["currency"]) or _NAMES[match["currency"]],
    ),
)
