"""Russian numbers whose form a word after them decides: dates, years, ordinals, sums, percent and degrees.

num2words has the cases and genders of the numerals.
"""

from __future__ import annotations

from collections.abc import Callable

import regex
from num2words import num2words

from services.encode.text.reading.measures import form
from services.encode.text.reading.rule import Match

_MONTHS = (
    "января", "февраля", "марта", "апреля", "мая", "июня", "июля", "августа", "сентября", "октября", "ноября",
    "декабря",
)  # fmt: skip
_DAY = r"(?P<day>0?[1-9]|[12]\d|3[01])"
_YEAR = r"(?P<year>[12]\d{3})"
_OF_YEAR = r"(?:\s?(?:года|г\.))?"
_NAMED_DATE = regex.compile(
    rf"(?<![\d.,:/-]){_DAY}\s(?P<month>{'|'.join(_MONTHS)})(?![\p{{L}}])(?:\s{_YEAR}(?![\d.,:-]\d|\d){_OF_YEAR})?"
)
_DATE = regex.compile(rf"(?<![\d.,:/-]){_DAY}\.(?P<month>0?[1-9]|1[0-2])\.{_YEAR}(?![\d-]|[.,]\d){_OF_YEAR}")
_ISO = regex.compile(r"(?<![\d./-])(?P<year>[12]\d{3})-(?P<month>0[1-9]|1[0-2])-(?P<day>0[1-9]|[12]\d|3[01])(?![\d-])")
_YEARS = regex.compile(rf"(?<![\d.,:/-]){_YEAR}\s?(?P<form>год|года|году|годом|годе|г\.)(?!\p{{L}})")
_CASES = {"год": "n", "года": "g", "году": "p", "годом": "i", "годе": "p"}
_TO_YEAR = regex.compile(r"(?<!\p{L})[Кк]\s$")
_IN_YEAR = regex.compile(r"(?<!\p{L})[Вв]\s$")
_ORDINAL = regex.compile(
    r"(?<![\d.,:/-])(?P<number>[1-9]\d{0,3})-(?P<ending>ый|ой|ий|го|му|ом|ая|ое|ые|ых|й|я|е|м|х)(?!\p{L})"
)
_ENDINGS: dict[str, dict[str, str | bool]] = {
    "я": {"gender": "f"}, "ая": {"gender": "f"}, "е": {"gender": "n"}, "ое": {"gender": "n"}, "ые": {"plural": True},
    "го": {"case": "g"}, "му": {"case": "d"}, "м": {"case": "p"}, "ом": {"case": "p"},
    "х": {"case": "g", "plural": True}, "ых": {"case": "g", "plural": True},
}  # fmt: skip
_OF_FEW = {2: "двух", 3: "трёх", 4: "четырёх"}
"""3-х is a number of things, not a place in an order."""
_CURRENCIES = {
    "$": ("доллар доллара долларов", "цент цента центов", "m"),
    "€": ("евро евро евро", "цент цента центов", "m"),
    "£": ("фунт фунта фунтов", "пенс пенса пенсов", "m"),
    "₽": ("рубль рубля рублей", "копейка копейки копеек", "m"),
    "¥": ("иена иены иен", "", "f"),
}
_AMOUNT = r"(?P<amount>\d{1,3}(?:[ \u00a0\u202f]\d{3})+(?:[.,]\d\d)?|\d{1,3}(?:,\d{3})+(?:\.\d\d)?|\d+(?:[.,]\d+)?)"
_SCALE = r"(?:\s(?P<scale>тыс\.|млн\.?|млрд\.?|трлн\.?|тысяч\w*|миллион\w*|миллиард\w*|триллион\w*))?"
_SUM = regex.compile(
    rf"(?<![\w.,])(?P<currency>[$€£₽¥])\s?{_AMOUNT}(?![\d%]|[.,-]\d){_SCALE}"
    rf"|(?<![\w.,/:-]){_AMOUNT}{_SCALE}\s?(?P<currency>[$€£₽¥]|руб\.?(?!\p{{L}}))(?!\w)"
)
_SCALES = {
    "тыс": "тысяча тысячи тысяч", "млн": "миллион миллиона миллионов", "млрд": "миллиард миллиарда миллиардов",
    "трлн": "триллион триллиона триллионов",
}  # fmt: skip
_UNIT = regex.compile(rf"(?<![\w.,:/])(?P<sign>[-−+])?{_AMOUNT}\s?(?P<unit>%|°\s?C(?!\p{{L}}|\d))")
_UNITS = {"%": ("процент процента процентов", ""), "C": ("градус градуса градусов", " Цельсия")}
_SIGNS = {"-": "минус ", "−": "минус ", "+": "плюс "}
Number = Callable[[str], str | None]


def _ordinal(value: int, **form: str | bool) -> str:
    return str(num2words(value, lang="ru", to="ordinal", **form))


def _plain(written: str) -> str:
    """Write an amount with a comma before its decimals and nothing between its groups."""
    digits = regex.sub(r"[ \u00a0\u202f]", "", written)
    if regex.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d\d)?", digits):
        digits = digits.replace(",", "")
    return digits.replace(".", ",")


def _date(match: Match) -> str:
    month = match["month"]
    words = (
        f"{_ordinal(int(match['day']), case='g', gender='n')} {_MONTHS[int(month) - 1] if month.isdigit() else month}"
    )
    return f"{words} {_ordinal(int(match['year']), case='g')} года" if match["year"] else words


def _year(match: Match) -> str:
    form, before = match["form"], match.string[max(0, match.start() - 3) : match.start()]
    if form == "г.":
        form = "году" if _IN_YEAR.search(before) else "года"
    case = "d" if form == "году" and _TO_YEAR.search(before) else _CASES[form]
    return f"{_ordinal(int(match['year']), case=case)} {form}"


def _numbered(match: Match) -> str:
    value, ending = int(match["number"]), match["ending"]
    if ending == "х" and value in _OF_FEW:
        return _OF_FEW[value]
    form = {"plural": True} if ending == "е" and value >= 10 and value % 10 == 0 else _ENDINGS.get(ending, {})
    return _ordinal(value, **form)


def _sum(match: Match, number: Number) -> str | None:
    amount, sign = _plain(match["amount"]), match["currency"][0]
    forms, cents, gender = _CURRENCIES["₽" if sign == "р" else sign]
    scale = (match["scale"] or "").rstrip(".")
    if scale:
        words = number(amount)
        known = next((forms for short, forms in _SCALES.items() if scale == short), None)
        return words and f"{words} {form(amount, known) if known else scale} {forms.split(' ')[2]}"
    whole, _, part = amount.partition(",")
    if part and (len(part) != 2 or not cents):
        words = number(amount)
        return words and f"{words} {forms.split(' ')[1]}"
    words = str(num2words(int(whole), lang="ru", gender=gender))
    said = f"{words} {form(whole, forms)}"
    if not part.strip("0"):
        return said
    few = str(num2words(int(part), lang="ru", gender="f" if cents.startswith("копейка") else "m"))
    return f"{said} {few} {form(str(int(part)), cents)}"


def _unit(match: Match, number: Number) -> str | None:
    amount = _plain(match["amount"])
    forms, after = _UNITS[match["unit"][-1]]
    words = number(amount)
    return words and f"{_SIGNS.get(match['sign'] or '', '')}{words} {form(amount, forms)}{after}"


def read_russian(text: str, number: Number) -> str:
    """Return the text with what this module reads in words; `number` reads an amount."""
    text = _NAMED_DATE.sub(_date, text)
    text = _YEARS.sub(_year, _ISO.sub(_date, _DATE.sub(_date, text)))
    text = _ORDINAL.sub(_numbered, text)
    text = _SUM.sub(lambda match: _sum(match, number) or match.group(), text)
    return _UNIT.sub(lambda match: _unit(match, number) or match.group(), text)
