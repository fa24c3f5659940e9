"""Digits in languages other than English and Chinese, by num2words. Digits stay where it does not have the language."""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache
from typing import Any

import regex
from num2words import CONVERTER_CLASSES, num2words

from services.encode.text.reading.currencies import read_accounts, read_codes, read_sums, read_telephones
from services.encode.text.reading.dates import TO, read_dates
from services.encode.text.reading.korean import read_korean
from services.encode.text.reading.measures import and_a_half, fraction, read_measures
from services.encode.text.reading.number_words import has_language
from services.encode.text.reading.romance import read_romance
from services.encode.text.reading.russian import read_russian

_LONGEST = 15
_NAMED_DECIMALS = 3
"""Decimals up to which Russian names the fraction: tenths, hundredths, thousandths."""
_SHARED = {"nb": "no", "nn": "no", "iw": "he", "in": "id", "kk": "kz"}
"""Subtags of languages that the library has under another name."""
_DECIMAL_POINT = frozenset(("en", "zh", "ja", "ko", "th", "he", "am", "bn", "kn", "te", "cy"))  # codespell:ignore
"""Languages that write 1,234.5; the others write 1.234,5."""
_PERCENT = {
    "de": "Prozent", "fr": "pour cent", "es": "por ciento", "it": "per cento", "pt": "por cento", "nl": "procent",
    "pl": "procent", "cs": "procent", "sv": "procent", "da": "procent", "no": "prosent", "fi": "prosenttia",
    "ru": "процентов", "uk": "відсотків", "tr": "yüzde", "ja": "パーセント", "ko": "퍼센트",
}  # fmt: skip
_CELSIUS = {
    "de": "Grad Celsius", "fr": "degrés Celsius", "es": "grados Celsius", "it": "gradi Celsius", "pt": "graus Celsius",
    "nl": "graden Celsius", "pl": "stopni Celsjusza", "sv": "grader Celsius", "da": "grader celsius",
    "no": "grader celsius", "ru": "градусов Цельсия", "ja": "度", "ko": "도",
}  # fmt: skip
_UNSPACED = frozenset(("ja", "zh", "th"))
_MINUS = {
    "de": "minus", "fr": "moins", "es": "menos", "it": "meno", "pt": "menos", "nl": "min", "pl": "minus", "cs": "minus",
    "sv": "minus", "da": "minus", "no": "minus", "fi": "miinus", "ru": "минус", "uk": "мінус", "tr": "eksi",
    "ja": "マイナス", "ko": "마이너스",
}  # fmt: skip
_POINT = {"es": "coma", "it": "virgola", "vi": "phẩy", "id": "koma", "fa": "ممیز", "ar": "فاصلة"}
_EURO = {"de": "Euro", "fr": "euros", "es": "euros", "it": "euro", "pt": "euros", "nl": "euro"}
_ONE_EURO = {"de": "ein Euro", "fr": "un euro", "es": "un euro", "it": "un euro", "pt": "um euro", "nl": "een euro"}
_CENTS = {"de": " ", "fr": " ", "es": " con ", "it": " e ", "pt": " e ", "nl": " "}
"""Between the euros and the cents of a sum."""
_HALF = {"de": "ein halb", "fr": "un demi", "es": "un medio", "it": "un mezzo", "pt": "um meio", "nl": "een half"}
_OVER = {"de": "durch", "fr": "sur", "es": "sobre", "it": "su", "pt": "sobre", "nl": "gedeeld door"}
_RANGE = regex.compile(r"(\d{1,4})\s?[-–〜～~]\s?(\d{1,4})")
_FRACTION = regex.compile(r"([1-9]\d{0,2})/([1-9]\d{0,2})")
_LARGEST_DENOMINATOR = 10
"""Larger ones may be days of a month in Japanese."""
_OF_TWO = regex.compile(r"(?P<first>[1-9]\d{0,2})(?P<sign>[:/])(?P<last>[1-9]\d{0,2})")
_TELEPHONE = regex.compile(r"0\d{1,5}(?:(?:[ \u00a0\u202f/-]| [/-] )\d{2,11}){1,5}")
_POSTAL_CODE = regex.compile(r"(?<![\d-])(\d{3})-(\d{4})(?![\d-])")
_SCORE = regex.compile(r"(\d{1,3}):(\d{1,3})")
_SCORES = {"de": "zu", "nl": "tegen"}
"""Between the numbers of 3:1."""
_WAVE = regex.compile(r"(?<=\d\s?(?:°C|%|[度円人年月日時分도원명년월일시분]))\s?[~〜～]\s?(?=[-−$¥₩]?\d)")
"""A range whose first number has a unit: -3℃~8℃."""
_JAPANESE_SCORE = regex.compile(
    r"(?<![\w.,-])(\d{1,2})-(\d{1,2})(?=(?:で|の)?(?:勝|敗|負|引き分け|逆転))"
    r"|(?<=[\p{Han}\p{Katakana}])(\d{1,2})-(\d{1,2})(?=(?![人回時分日月年個本枚階歳点円%])[\p{Han}\p{Katakana}]{2})"
)
_DATE = regex.compile(r"\d{1,2}[/-]\d{1,2}[/-]\d{4}")
_BLANK = "[ \u00a0\u2009\u202f'’]"
_GROUP = {
    ",": regex.compile(rf"[1-9]\d{{0,2}}(?:(?:\.\d{{3}})+|({_BLANK})\d{{3}}(?:\1\d{{3}})*)(?:,\d+)?|\d+(?:,\d+)?"),
    ".": regex.compile(rf"[1-9]\d{{0,2}}(?:(?:,\d{{3}})+|({_BLANK})\d{{3}}(?:\1\d{{3}})*)(?:\.\d+)?|\d+(?:\.\d+)?"),
}
_NUMERAL = (
    r"(?P<sign>(?:(?<![\w)\]-])|(?<=[はがもでのを]))[-−])?"
    r"(?P<number>\d(?:(?:[\d.' ’\u00a0\u2009\u202f:/〜～~–-]|,(?!\s))*\d)?)"
)
_MARK = r"(?P<mark>\s?%|\s?°\s?C(?![A-Za-z\d])|\s?€)?"
_SIGNS = str.maketrans({"℃": "°C"})
_WRITTEN = regex.compile(_NUMERAL + _MARK)
_SPACED = regex.compile(r"(?![\p{Han}\p{Hiragana}\p{Katakana}])\p{L}")
"""Letters of scripts with blanks between words."""
_RUNS = regex.compile(r"\d+|\D+")
_ORDINAL = regex.compile(
    r"(?<![\w.,])(?P<number>[1-9]\d{0,2})\.?(?P<ending>(?<=\.)º|ª|(?<=\b(?:el|del|al|il|o|do|ao)\s\d{1,3})º)"
    r"(?!\w|\s?[CF]\b)",
    regex.IGNORECASE,
)


def read_digits(text: str, language: str) -> str:
    """Return the text with digits as words of `language`, or `text` itself if there are no words for it."""
    name = _SHARED.get(language, language)
    if not has_language(name):
        return text
    if name in ("fr", "es", "it", "pt"):
        text = read_romance(text, name, lambda value, kind: _said(value, kind, name))
    if not any(char.isdigit() for char in text):
        return text
    text = text.translate(_SIGNS)
    text = read_codes(text, name, lambda char: _cardinal(char, name))
    text = read_accounts(text, name, lambda char: _cardinal(char, name) if char.isdigit() else char)
    text = read_telephones(text, name, lambda digit: _cardinal(digit, name))
    if name in ("ja", "ko"):
        text = _WAVE.sub(TO[name], text)
    text = read_measures(text, name)
    if name == "ru":
        text = read_russian(text, lambda amount: _amount(amount, name))
    text = read_dates(text, name, lambda value, kind: _said(value, kind, name))
    text = read_sums(text, name, lambda amount: _amount(amount, name), TO.get(name, ""))
    if name == "ko":
        text = read_korean(text)
    if name == "ja":
        text = _JAPANESE_SCORE.sub(lambda score: "対".join(filter(None, score.groups())), text)
        text = _POSTAL_CODE.sub(lambda match: _spelled(match, name), text)
    if name in ("es", "it", "pt"):
        text = _ORDINAL.sub(lambda match: _ordinal(match, name), text)
    return _WRITTEN.sub(lambda match: _read(match, name), text)


def _spelled(match: regex.Match[str], language: str) -> str:
    return "、".join("".join(_cardinal(digit, language) or digit for digit in run) for run in match.groups())


def _ordinal(match: regex.Match[str], language: str) -> str:
    """Read 1.º and 2ª, the second in the feminine form."""
    words = _said(int(match["number"]), "ordinal", language)
    if match["ending"] == "ª":
        words = regex.sub(r"o\b", "a", words)
    return words


@lru_cache(maxsize=8192)
def _said(value: int, kind: str, language: str) -> str:
    return str(num2words(value, lang=language, to=kind))


@lru_cache(maxsize=8192)
def _cardinal(digits: str, language: str) -> str | None:
    """Return the words of ASCII digits. A leading zero or many digits make it digit by digit."""
    try:
        if (len(digits) > 1 and digits[0] == "0") or len(digits) > _LONGEST:
            return " ".join(str(num2words(int(digit), lang=language)) for digit in digits)
        return str(num2words(int(digits), lang=language))
    except Exception:  # noqa: BLE001 - see has_language
        return None


def _point(language: str) -> str:
    converter: Any = CONVERTER_CLASSES[language]
    word: Any = _POINT.get(language) or getattr(converter, "pointword", "")
    return str(word if isinstance(word, str) else word[0])


def _read(match: regex.Match[str], language: str) -> str:
    written, mark = match["number"], (match["mark"] or "").strip()
    decimal = "." if language in _DECIMAL_POINT else ","
    whole = _GROUP[decimal].fullmatch(written)
    words = _number(written, decimal, language) if whole else _parts(written, language)
    if whole and mark == "€" and not match["sign"]:
        words, mark = _euros(written, decimal, language, words)
    if words is None:
        return match.group()
    if match["sign"]:
        minus = _MINUS.get(language)
        words = f"{minus}{'' if language in _UNSPACED else ' '}{words}" if minus else f"{match['sign']}{words}"
    said = {"%": _PERCENT, "€": _EURO}.get(mark, _CELSIUS).get(language) if mark else None
    if mark:
        words += f"{'' if language in _UNSPACED else ' '}{said}" if said else match["mark"]
    text, start, end = match.string, match.start(), match.end()
    before = " " if start and _SPACED.match(text[start - 1]) else ""
    after = " " if end < len(text) and _SPACED.match(text[end]) else ""
    return f"{before}{words}{after}"


def _amount(written: str, language: str) -> str | None:
    """Return the words of a sum, whose decimals may follow a stop in every language: $19.99."""
    decimal = "." if language in _DECIMAL_POINT else ","
    if regex.fullmatch(r"\d{1,3}(?:,\d{3})*\.\d\d?", written):
        written = written.replace(",", "").replace(".", decimal)
    return _number(written, decimal, language) if _GROUP[decimal].fullmatch(written) else None


def _number(written: str, decimal: str, language: str) -> str | None:
    whole, _, fraction = regex.sub(r"[ \u00a0\u2009\u202f'’]", "", written).partition(decimal)
    digits = whole.replace("." if decimal == "," else ",", "")
    if language == "de" and not fraction and whole == digits and len(digits) == 4 and "1100" <= digits < "2000":
        return _said(int(digits), "year", language)  # the name of a year, which is a quantity too: zwölfhundert Euro
    words = _cardinal(digits, language)
    if not fraction or words is None:
        return words
    if language == "ru" and len(fraction) <= _NAMED_DECIMALS:
        return str(num2words(Decimal(f"{digits}.{fraction}"), lang=language))
    point = _point(language)
    decimals = [_cardinal(digit, language) for digit in fraction]
    if not point or None in decimals:
        return None
    blank = "" if language in _UNSPACED else " "
    return f"{words}{blank}{point}{blank}{blank.join(digit for digit in decimals if digit)}"


def _euros(written: str, decimal: str, language: str, words: str | None) -> tuple[str | None, str]:
    """Return the words of a sum of euros and an empty mark, or `words` and the mark if there is no form for it."""
    whole, _, cents = written.partition(decimal)
    if language not in _CENTS or len(cents) not in (0, 2):
        return words, "€"
    euros = _ONE_EURO[language] if whole == "1" else f"{_number(whole, decimal, language)} {_EURO[language]}"
    if not cents.strip("0"):
        return euros, ""
    return f"{euros}{_CENTS[language]}{_cardinal(cents.lstrip('0'), language)}", ""


def _parts(written: str, language: str) -> str | None:
    """Read a range, a fraction or a telephone number, or else each run of digits, as of a date or a time."""
    if (pair := _RANGE.fullmatch(written)) is not None and language in TO and int(pair[1]) < int(pair[2]):
        first, last = (_number(digits, ",", language) for digits in pair.groups())
        blank = "" if language in _UNSPACED else " "
        if language == "ru":  # 2-3 рубля
            return f"{first}-{last}"
        return None if first is None or last is None else f"{first}{blank}{TO[language]}{blank}{last}"
    if (pair := _FRACTION.fullmatch(written)) is not None and language in _OVER:
        if written == "1/2":
            return _HALF[language]
        part = fraction(pair[1], pair[2], language, _cardinal(pair[1], language) or pair[1])
        return part or f"{_cardinal(pair[1], language)} {_OVER[language]} {_cardinal(pair[2], language)}"
    if written.endswith(" 1/2") and (whole := written[:-4]).isdigit():
        half = and_a_half(whole, language, _cardinal(whole, language) or whole)
        if half is not None:
            return half
    if language in _SCORES and (pair := _SCORE.fullmatch(written)) is not None:
        first, last = (_cardinal(digits, language) for digits in pair.groups())
        return f"{first} {_SCORES[language]} {last}"
    if language == "ja" and (pair := _OF_TWO.fullmatch(written)) is not None:
        first, last = (_cardinal(digits, language) for digits in pair.group("first", "last"))
        if pair["sign"] == ":":
            return f"{first}対{last}"
        if int(pair["first"]) < int(pair["last"]) <= _LARGEST_DENOMINATOR:
            return f"{last}分の{first}"
    if _TELEPHONE.fullmatch(written) is not None and _DATE.fullmatch(written) is None:
        blank, comma = ("", "、") if language == "ja" else (" ", ", ")
        groups = [[_cardinal(digit, language) or digit for digit in run] for run in regex.findall(r"\d+", written)]
        return comma.join(map(blank.join, groups))
    if language == "ko" and (pair := _OF_TWO.fullmatch(written)) is not None:
        first, last = (_cardinal(digits, language) for digits in pair.group("first", "last"))
        if pair["sign"] == ":":
            return f"{first} 대 {last}"
        if int(pair["first"]) < int(pair["last"]) <= _LARGEST_DENOMINATOR:
            return f"{last} 분의 {first}"
    words = []
    for part in _RUNS.findall(written):
        named = language == "de" and len(part) == 4 and "1100" <= part < "2000"  # 1989/90
        said = (
            _said(int(part), "year", language)
            if named
            else _cardinal(part, language)
            if part.isdigit()
            else ", "
            if part.strip() == ","
            else " "
        )
        if said is None:
            return None
        words.append(said)
    return "".join(words)
