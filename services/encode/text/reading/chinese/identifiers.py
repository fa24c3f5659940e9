"""Numbers of Chinese texts among letters and in addresses: plates, flights, flats, types, and numbers before words."""

from __future__ import annotations

import regex

from services.encode.text.borders.words import words
from services.encode.text.reading.chinese.names import COUNTED
from services.encode.text.reading.chinese.numbers import number, spelled
from services.encode.text.reading.rule import Match, rule

_PROVINCES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
_READ_BY_WETEXT = words(
    """
    yd sqm mg dm ha km m cm mm mV hr hrs sec secs mins mile ft sqft kgf rad sr mol kmol mmol bar mbar hPa ksi psi v h s
    L ml mL kg nm μm kWh kw kv hz wh ng pa pg db lb lbs oz mi mph min ms ns μs rpm kcal cwt kW kL mA gb tb mb
    """
)
"""Units that wetext reads after digits. It reads the first letter of any other word as a unit, too: 3.5 sonnet."""
_SMALL = {
    "I": "一", "II": "二", "III": "三", "IV": "四", "V": "五", "VI": "六", "VII": "七", "VIII": "八", "IX": "九",
    "X": "十", "XI": "十一", "XII": "十二",
}  # fmt: skip
_DIGIT = regex.compile(r"\d")
_LETTER = regex.compile("[A-Za-z]")
_BUILDING = r"(?:\d单元|\d[栋幢]|\d号楼|[A-Z][座栋]|[\d一二三四五六七八九十]楼)"
"""What stands before the number of a flat."""


def _each(match: Match) -> str:
    return _DIGIT.sub(lambda digit: spelled(digit.group()), match.group())


def _number(written: str, fraction: str | None = None) -> str:
    return number(written, fraction) if written == "0" or written[0] != "0" else spelled(written)


def _before_word(match: Match) -> str | None:
    """Read the number before a word that is no unit of wetext."""
    whole, word = match["whole"], match["word"]
    if word in _READ_BY_WETEXT or (len(whole) > 4 and not match["fraction"]) or len(whole) > 8:
        return None
    before_two = whole == "2" and _LETTER.match(match.string, max(0, match.start() - 1), match.start()) is not None
    if not match["fraction"] and (before_two or (len(whole) == 3 and whole[:2] in ("11", "12"))):
        return None  # P2P, or the number of a service
    sign = {"-": "负", "−": "负", "+": "正"}.get(match["sign"] or "", "")
    return f"{sign}{_number(whole, match['fraction'])}"


def _against(match: Match) -> str:
    return f"{_number(match['first'])}{match['sign'].replace('.', '')}{_number(match['last'])}"


def _roman(match: Match) -> str:
    return f"{_SMALL[match['from']]}到" if match["from"] else _SMALL[match.group()]


ABBREVIATIONS = (
    rule(
        "缩写的点",
        r"(?<![A-Za-z.])(?:(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|Inc|Ltd|Co|vs|VS|etc|Vol|Ch|Fig)\.(?=\s?[\p{L}\d,，。、）)])"
        r"|Ph\.D\.?|e\.g\.?|i\.e\.?)",
        lambda match: match.group().replace(".", ""),
        ".",
    ),
    rule("答案的点", r"(?<=(?<![\dA-Za-z.])\d{1,3})\.\s?(?=[A-H](?![A-Za-z\d]))", lambda match: "、", "."),
)
"""A full stop would be read as the end of a sentence."""
_NUMERAL = r"(?:I{1,3}|IV|VI{0,3}|IX|XI{0,2})"
ROMAN = (
    rule(
        "罗马数字",
        rf"(?<=第){_NUMERAL}(?=[章部卷季节篇期集届类级型])"
        rf"|(?<![A-Za-z\d])(?:(?![VX](?!I)){_NUMERAL}(?=[型期级类度])|(?P<from>{_NUMERAL})\s?[-~～]\s?(?={_NUMERAL}[型期级类度]))",
        _roman,
        "IVX",
    ),
)
NUMBERED = (
    rule(
        "卡号",
        r"(?<![\d.A-Za-z-]|\d[ ])\d{4}(?:[ ]\d{4}){3,4}(?:[ ]\d{1,3})?(?![\d.%]|[ ]\d)",
        lambda match: _each(match).replace(" ", "，"),
        " ",
    ),
    rule("十六进制", r"(?<![A-Za-z\d])0[xX][\dA-Fa-f]{1,16}(?![A-Za-z\d])", _each),
    rule("里程桩", r"(?<=(?<![A-Za-z\d])K\d{1,4})\+(?=\d{1,3}(?!\d))", lambda match: "加", "+"),
    rule("楼号", r"(?<=\d)\#(?=[楼栋幢库线机炉塔房门单])", lambda match: "号", "#"),
    rule(
        "案号",
        r"(?<=[〔\[【（(](?:19|20)\d\d[〕\]】）)]\p{Han}{1,2}(?:\d{2,4})?\p{Han}{1,4})\d{3,6}(?=号)",
        _each,
    ),
    rule("车牌", rf"(?<=[{_PROVINCES}][A-Z][·•‧]?)[A-Z\d]{{5,6}}(?![A-Za-z\d])", _each),
    rule(
        "漏洞编号",
        r"(?<=(?<![A-Za-z])(?:CVE|CWE|CNVD|CNNVD)-)\d+(?:-\d+)*",
        lambda match: _each(match).replace("-", "，"),
        "-",
    ),
    rule("邮箱中的数字", r"(?<=[\w.]@)\d{2,}(?=[.点])|\d{2,}(?=@[A-Za-z\d])", _each, "@"),
    rule(
        "字母编号到字母编号",
        r"(?<=(?<![A-Za-z\d])(?P<letter>[A-Z])\d{1,3})\s?[-–—~～]\s?(?=(?P=letter)\d)",
        lambda match: "到",
        "-–—~～",
    ),
    rule(
        "机型",
        r"(?<=波音|空客(?:A)?)\d{3}-\d{3,4}(?!\d)",
        lambda match: _each(match).replace("-", "杠"),
        "-",
    ),
)
_TESTED = regex.compile(r"抗[体原]|抗-|检[测验]|Ig[AGM]|HB|HIV|HCV|尿|血|阳性|阴性|核酸|免疫组化")
RESULTS = (
    rule(
        "阴阳性",
        r"(?<=[A-Za-z]{2}|[体原白血糖酸素菌毒s])[（(](?P<sign>\++|[-－−])[）)]",
        lambda match: ("阳性" if match["sign"][0] == "+" else "阴性") if _TESTED.search(match.string) else None,
        "+-－−",
    ),
)
ADDRESSES = (
    rule("门牌", rf"(?<={_BUILDING})\d{{3,4}}{COUNTED.replace('号', '')}(?![A-Za-z层])", _each),
    rule("航班", r"(?<![A-Za-z\d.])(?:3U|9C|8L|9H|5J|7C)\d{3,4}(?![A-Za-z\d.])", _each),
    rule(
        "带空格的航班", r"(?<=(?:航班|乘坐|搭乘|乘)号?[是为：:]?\s?[A-Z]{2})\s\d{3,4}(?!\d)", lambda m: _each(m).strip()
    ),
    rule(
        "标准与年份",
        r"(?<=(?<![A-Za-z\d]|\d[ ])(?:ISO[ ](?=\d{4})|(?:RFC|GB|IEC|IEEE|ASTM|DIN)[ ]))"
        r"\d{3,5}(?:-\d{1,3})*(?::(?:19|20)\d\d)?(?![\d-]|\.\d)",
        lambda match: _each(match).replace("-", "杠").replace(":", "，"),
    ),
    rule(
        "括号中的年份",
        r"(?<=[〔\[【（(])(?:19|20)\d\d(?=[〕\]】）)])"
        r"|(?<=[（(][^（）()\d]{2,24}[，,]\s?)(?:19[5-9]\d|20[0-2]\d)(?=[）)；;])",
        _each,
    ),
)
LETTERED = (
    rule("有一说一", r"(?<![A-Za-z\d])[uU]1[sS]1(?![A-Za-z\d])", lambda match: "有一说一"),
    rule("店型", r"(?<![\dA-Za-z.])4[sS](?=店)", lambda match: "四S"),
    rule(
        "英文名后的年份",
        rf"(?<=[A-Za-z]{{2}}\s?)(?<!(?:USD|CNY|RMB|EUR|JPY|HKD|GBP|KRW)\s?)(?:199\d|20[0-4]\d)(?<!2000){COUNTED}(?![A-Za-z+~～–—])",
        _each,
    ),
    rule(
        "对阵",
        r"(?<![A-Za-z\d.])(?P<first>[1-9]\d?)(?P<sign>[vV](?:[sS]\.?)?|\s[vV][sS]\.?\s)(?P<last>[1-9]\d?)(?![\dA-Za-z.])",
        _against,
        "vV",
    ),
    rule(
        "型号末尾的字母",
        r"(?<=(?<![A-Za-z\d])[A-Z]{1,3}|iPhone\s?)\d{1,4}(?=[LVAgmtshdWKTJN](?![A-Za-z]))|(?<!\d)\d{3}(?=Li(?![A-Za-z]))",
        lambda match: _number(match.group()),
    ),
)
WORDED = (
    rule(
        "单词前的数字",
        r"(?P<sign>(?<![A-Za-z\d）)\]])[-−+])?(?<![\d.,/~～±^_])(?P<whole>\d+)(?:\.(?P<fraction>\d+))?(?=\s?(?P<word>[A-Za-zμ]+))",
        _before_word,
    ),
    rule(
        "不是日期的小数",
        r"(?<![\d./+\-−±~～^_点]|\d[:：])(?P<whole>1[0-2])\.(?P<fraction>\d+)(?![\d:：%‰°℃℉~～]|[./]\d|\s?[-–—−]\d|\s?[A-Za-zμ])",
        lambda match: number(match["whole"], match["fraction"]),
        ".",
    ),
)
