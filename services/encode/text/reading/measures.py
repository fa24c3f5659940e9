"""Parts of a whole, and units after numbers, outside English and Chinese.

The number stays; the unit becomes a word in the number that it needs: 1 km -> 1 Kilometer, 5 km -> 5 kilomètres.
"""

from __future__ import annotations

import regex

from services.encode.text.reading.rule import Match

_METRIC = (
    "km",
    "m",
    "cm",
    "mm",
    "kg",
    "g",
    "mg",
    "l",
    "ml",
    "km/h",
    "m/s",
    "m²",
    "km²",
    "min",
    "s",
    "kW",
    "kWh",
    "MB",
    "GB",
    "TB",
)


def _table(singles: str, plurals: str = "") -> dict[str, tuple[str, str]]:
    """Return the singular and the plural of each of `_METRIC`; without plurals they are the same."""
    ones = singles.split(", ")
    many = plurals.split(", ") if plurals else ones
    return dict(zip(_METRIC, zip(ones, many, strict=True), strict=True))


_NAMES = {
    "de": _table(
        "Kilometer, Meter, Zentimeter, Millimeter, Kilogramm, Gramm, Milligramm, Liter, Milliliter, "
        "Kilometer pro Stunde, Meter pro Sekunde, Quadratmeter, Quadratkilometer, Minute, Sekunde, Kilowatt, "
        "Kilowattstunde, Megabyte, Gigabyte, Terabyte",
        "Kilometer, Meter, Zentimeter, Millimeter, Kilogramm, Gramm, Milligramm, Liter, Milliliter, "
        "Kilometer pro Stunde, Meter pro Sekunde, Quadratmeter, Quadratkilometer, Minuten, Sekunden, "
        "Kilowatt, Kilowattstunden, Megabyte, Gigabyte, Terabyte",
    ),
    "fr": _table(
        "kilomètre, mètre, centimètre, millimètre, kilogramme, gramme, milligramme, litre, millilitre, "
        "kilomètre par heure, mètre par seconde, mètre carré, kilomètre carré, minute, seconde, kilowatt, "
        "kilowattheure, mégaoctet, gigaoctet, téraoctet",
        "kilomètres, mètres, centimètres, millimètres, kilogrammes, grammes, milligrammes, litres, "
        "millilitres, kilomètres par heure, mètres par seconde, mètres carrés, kilomètres carrés, minutes, "
        "secondes, kilowatts, kilowattheures, mégaoctets, gigaoctets, téraoctets",
    ),
    "es": _table(
        "kilómetro, metro, centímetro, milímetro, kilogramo, gramo, miligramo, litro, mililitro, "
        "kilómetro por hora, metro por segundo, metro cuadrado, kilómetro cuadrado, minuto, segundo, "
        "kilovatio, kilovatio hora, megabyte, gigabyte, terabyte",
        "kilómetros, metros, centímetros, milímetros, kilogramos, gramos, miligramos, litros, mililitros, "
        "kilómetros por hora, metros por segundo, metros cuadrados, kilómetros cuadrados, minutos, segundos, "
        "kilovatios, kilovatios hora, megabytes, gigabytes, terabytes",
    ),
    "it": _table(
        "chilometro, metro, centimetro, millimetro, chilogrammo, grammo, milligrammo, litro, millilitro, "
        "chilometro all'ora, metro al secondo, metro quadrato, chilometro quadrato, minuto, secondo, "
        "chilowatt, chilowattora, megabyte, gigabyte, terabyte",
        "chilometri, metri, centimetri, millimetri, chilogrammi, grammi, milligrammi, litri, millilitri, "
        "chilometri all'ora, metri al secondo, metri quadrati, chilometri quadrati, minuti, secondi, "
        "chilowatt, chilowattora, megabyte, gigabyte, terabyte",
    ),
    "pt": _table(
        "quilómetro, metro, centímetro, milímetro, quilograma, grama, miligrama, litro, mililitro, "
        "quilómetro por hora, metro por segundo, metro quadrado, quilómetro quadrado, minuto, segundo, "
        "quilowatt, quilowatt-hora, megabyte, gigabyte, terabyte",
        "quilómetros, metros, centímetros, milímetros, quilogramas, gramas, miligramas, litros, mililitros, "
        "quilómetros por hora, metros por segundo, metros quadrados, quilómetros quadrados, minutos, "
        "segundos, quilowatts, quilowatts-hora, megabytes, gigabytes, terabytes",
    ),
    "nl": _table(
        "kilometer, meter, centimeter, millimeter, kilogram, gram, milligram, liter, milliliter, "
        "kilometer per uur, meter per seconde, vierkante meter, vierkante kilometer, minuut, seconde, "
        "kilowatt, kilowattuur, megabyte, gigabyte, terabyte",
        "kilometer, meter, centimeter, millimeter, kilogram, gram, milligram, liter, milliliter, "
        "kilometer per uur, meter per seconde, vierkante meter, vierkante kilometer, minuten, seconden, "
        "kilowatt, kilowattuur, megabyte, gigabyte, terabyte",
    ),
    "ja": _table(
        "キロメートル, メートル, センチメートル, ミリメートル, キログラム, グラム, ミリグラム, リットル, "
        "ミリリットル, キロメートル, メートル, 平方メートル, 平方キロメートル, 分, 秒, キロワット, "
        "キロワットアワー, メガバイト, ギガバイト, テラバイト",
    ),
    "ko": _table(
        "킬로미터, 미터, 센티미터, 밀리미터, 킬로그램, 그램, 밀리그램, 리터, 밀리리터, 킬로미터, 미터, "
        "제곱미터, 제곱킬로미터, 분, 초, 킬로와트, 킬로와트시, 메가바이트, 기가바이트, 테라바이트",
    ),
}
_SPEED = {"ja": {"km/h": "時速", "m/s": "秒速"}, "ko": {"km/h": "시속 ", "m/s": "초속 "}}
"""Before the number of a speed."""
_SAME = {"L": "l", "ml": "ml", "mL": "ml", "m2": "m²", "km2": "km²", "Min.": "min", "Mo": "MB", "Go": "GB", "To": "TB"}
_UNIT = "|".join(sorted(map(regex.escape, (*_METRIC, *_SAME)), key=len, reverse=True))
_NUMBER = r"(?<![\w.,:/])(?P<number>\d[\d.,]*)(?P<blank>[ \u00a0\u202f]?)"
_MEASURE = regex.compile(rf"{_NUMBER}(?P<unit>{_UNIT})(?![A-Za-z\d²³/'’-])")
_AFTER_LAST = regex.compile(
    rf"(?<=\d|(?<!\p{{L}})une?)(?P<blank>[ \u00a0\u202f]?)(?P<unit>{_UNIT})(?![A-Za-z\d²³/'’-])"
)
_ONE = {"es": ("un", _METRIC), "it": ("un", _METRIC), "fr": ("une", ("min", "s"))}
"""The number 1 before the unit, and the units before which it is so."""
_SINGLE = regex.compile(rf"(?<![\w.,:/-])1(?=[ \u00a0\u202f]?(?P<unit>{_UNIT})(?![A-Za-z\d²³/'’-]))")
_PARAGRAPH = regex.compile(r"§{1,2}\s?(?=\d)")
_TIMES = regex.compile(r"(?<=(?<![\w.,])\d{1,3})\s?[x×](?=\s[\p{Ll}\d])")
_RUSSIAN = {
    "км": "километр километра километров", "м": "метр метра метров", "см": "сантиметр сантиметра сантиметров",
    "мм": "миллиметр миллиметра миллиметров", "кг": "килограмм килограмма килограммов",
    "г": "грамм грамма граммов", "мг": "миллиграмм миллиграмма миллиграммов", "л": "литр литра литров",
    "мл": "миллилитр миллилитра миллилитров",
}  # fmt: skip
_RUSSIAN |= {f"{unit}/{per}": _RUSSIAN[unit] for unit, per in (("км", "ч"), ("м", "с"))}
_RUSSIAN_PER = {"ч": " в час", "с": " в секунду"}
_RUSSIAN_UNIT = "|".join(sorted(_RUSSIAN, key=len, reverse=True))
_RUSSIAN_MEASURE = regex.compile(
    rf"(?<=(?<![\d.,/:])(?P<number>\d[\d.,]*))[ \u00a0\u202f]?(?P<unit>{_RUSSIAN_UNIT})"
    r"(?![\p{L}\d²³/]|\.\s?\p{Ll})"
)


_FRACTIONS = {
    "de": {3: ("drittel", "drittel"), 4: ("viertel", "viertel"), 5: ("fünftel", "fünftel"), 8: ("achtel", "achtel")},
    "fr": {3: ("tiers", "tiers"), 4: ("quart", "quarts"), 5: ("cinquième", "cinquièmes"), 8: ("huitième", "huitièmes")},
    "es": {3: ("tercio", "tercios"), 4: ("cuarto", "cuartos"), 5: ("quinto", "quintos"), 8: ("octavo", "octavos")},
    "it": {3: ("terzo", "terzi"), 4: ("quarto", "quarti"), 5: ("quinto", "quinti"), 8: ("ottavo", "ottavi")},
    "pt": {3: ("terço", "terços"), 4: ("quarto", "quartos"), 5: ("quinto", "quintos"), 8: ("oitavo", "oitavos")},
    "nl": {3: ("derde", "derde"), 4: ("kwart", "kwart"), 5: ("vijfde", "vijfde"), 8: ("achtste", "achtste")},
}
_ONE_PART = {"de": "ein", "fr": "un", "es": "un", "it": "un", "pt": "um", "nl": "een"}
_AND_A_HALF = {
    "de": "einhalb",
    "fr": " et demi",
    "es": " y medio",
    "it": " e mezzo",
    "pt": " e meio",
    "nl": " en een half",
}


def fraction(over: str, under: str, language: str, words: str) -> str | None:
    """Return the words of a part below one, such as 3/4; `words`: those of the number of parts."""
    if int(over) >= int(under) or language not in _FRACTIONS or int(under) not in _FRACTIONS[language]:
        return None
    one, many = _FRACTIONS[language][int(under)]
    return f"{_ONE_PART[language]} {one}" if over == "1" else f"{words} {many}"


def and_a_half(whole: str, language: str, words: str) -> str | None:
    """Return the words of a number and a half: 2 1/2 -> zweieinhalb."""
    half = _AND_A_HALF.get(language)
    return None if half is None else f"{'ein' if (whole, language) == ('1', 'de') else words}{half}"


def form(amount: str, forms: str) -> str:
    """Return the form of a Russian noun after a number: 1 рубль, 2 рубля, 5 рублей; 1,5 рубля."""
    one, few, many = forms.split(" ")
    if not amount.isdigit():
        return few
    last, teens = int(amount) % 10, int(amount) % 100 // 10 == 1
    return many if teens or last in (0, 5, 6, 7, 8, 9) else one if last == 1 else few


def read_measures(text: str, language: str) -> str:
    """Return the text with the units after its numbers as words."""
    if language == "ru":
        return _RUSSIAN_MEASURE.sub(_russian, text)
    names = _NAMES.get(language)
    if names is None:
        return text
    if language == "de":
        text = _PARAGRAPH.sub(lambda sign: "Paragrafen " if "§§" in sign.group() else "Paragraf ", text)
        text = _TIMES.sub(" mal", text)
    if language in _SPEED:
        text = _MEASURE.sub(lambda match: _speed(match, _SPEED[language], names), text)
    if language in _ONE:
        one, units = _ONE[language]
        text = _SINGLE.sub(lambda match: one if _SAME.get(match["unit"], match["unit"]) in units else "1", text)
    return _AFTER_LAST.sub(lambda match: _named(match, language, names), text)


def _speed(match: Match, before: dict[str, str], names: dict[str, tuple[str, str]]) -> str:
    unit = match["unit"]
    return f"{before[unit]}{match['number']}{names[unit][0]}" if unit in before else match.group()


def _named(match: Match, language: str, names: dict[str, tuple[str, str]]) -> str:
    unit = _SAME.get(match["unit"], match["unit"])
    before = regex.search(r"(?:\d/|(?<![\d.,]))\d[\d.,]*$", match.string[max(0, match.start() - 16) : match.start()])
    number = before.group() if before else ""
    one = number in ("", "1") or "/" in number or (language == "fr" and number[:2] in ("0,", "1,"))
    blank = "" if language == "ja" else " "
    return f"{blank}{names[unit][0 if one else 1]}"


def _russian(match: Match) -> str:
    number, unit = match["number"], match["unit"]
    if unit == "г" and len(number) == 4:
        return match.group()  # a year
    per = _RUSSIAN_PER[unit[-1]] if "/" in unit else ""
    return f" {form(number, _RUSSIAN[unit])}{per}"
