"""Dates and times of day in languages other than English and Chinese. Other languages read them number by number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import regex

from services.encode.text.reading.rule import Match

Say = Callable[[int, str], str]
"""A number in words; the second argument is a kind of num2words: `cardinal`, `ordinal` or `year`."""


def _names(names: str) -> tuple[str, ...]:
    return tuple(names.split(" "))


TO = {
    "de": "bis", "fr": "à", "es": "a", "it": "a", "pt": "a", "nl": "tot", "pl": "do", "sv": "till", "da": "til",
    "no": "til", "ru": "до", "ja": "から", "ko": "에서",
}  # fmt: skip
"""Between the ends of a range."""
_GERMAN_CASE = regex.compile(
    r"\b(?:am|vom|zum|dem|den|des|bis|ab|seit|beim|im|nach|vor)\s+(?:\p{L}+,\s+(?:(?:den|dem)\s+)?)?$", regex.IGNORECASE
)
_DAYS_FROM_TO = regex.compile(r"(?<![\w.,])(\d{1,2}\.(?:\d{1,2}\.)?)\s?[-–]\s?(?=\d{1,2}\.\d{1,2}\.)")
_DAY_AND_MONTH = regex.compile(
    r"(?<=\b(?:[Aa]m|[Vv]om|[Zz]um|[Dd]em|[Dd]en|[Dd]er|[Bb]is|[Aa]b|[Ss]eit|(?:Mon|Diens|Donners|Frei|Sams|Sonn)tag,?|Mittwoch,?)"
    r"\s+(?:zum\s+)?)(?P<day>0?[1-9]|[12]\d|3[01])\.(?P<month>0?[1-9]|1[0-2])\.(?!\d)"
)
_GERMAN_ONES = regex.compile(
    r"(?<![\w.,:/-])(?<!(?:Nummer|Nr\.|Seite|Kapitel|Teil|Platz|Version)\s)1(?=\s(?:(?P<feminine>Stunde|Minute|Sekunde|Woche|Million|Milliarde|Person|Tonne)"
    r"|Uhr|Euro|Dollar|Cent|Pfund|Franken|Prozent|Kilometer|Meter|Zentimeter|Liter|Kilogramm|Kilo|Gramm|Grad|Tag|Monat|Jahr)\b)"
    r"|(?<=(?:^|[,;(:–]\s?|\n|(?<!\p{L})\p{Ll}+\s))1(?=\s(?!(?:Das|Der|Die|Den|Dem|Eine?|E[sr]|"
    r"Sie|Wir|Ich|Und|I[mn]|Am|Mio|Mrd)\b)"  # codespell:ignore
    r"(?P<noun>\p{Lu}\p{Ll}+|[ET]L)(?!\p{L}))"
)
_GERMAN_FEMININE = regex.compile(
    r".*(?:ung|heit|keit|schaft|ion|tät|(?<!Aug|End|Käs|Jung|Kund|"
    r"Nam|Gebäud|Erb|Gemüs|Interess|Getreid)e)"  # codespell:ignore
    r"|.*(?:[Zz]wiebel|[Tt]afel|[Nn]udel|[Rr]egel|[Ss]tadt|[Nn]acht|[Hh]and|[Zz]ahl|Frau|[Aa]rt|Zeit|[Aa]rbeit|[Aa]ntwort|[Kk]artoffel|[Ss]chüssel"
    r"|[Gg]abel|Mail|Datei|Tür|Bank|[Ff]ahrt|[Nn]ummer|Feier|[Gg]urke|Packung|Messerspitze|Knolle|Mutter|Tochter|Schwester|Katze)"
)
_GERMAN_ARTICLE = regex.compile(r"\b(?:der|Der|die|das)\s+$")


def _german_day(day: int, say: Say, before: str) -> str:
    ordinal = say(day, "ordinal")
    return (
        f"{ordinal}n" if _GERMAN_CASE.search(before) else ordinal if _GERMAN_ARTICLE.search(before) else f"{ordinal}r"
    )


def _first(word: str) -> Callable[[int, Say, str], str]:
    return lambda day, say, before: word if day == 1 else say(day, "cardinal")


@dataclass(frozen=True)
class _Calendar:
    months: tuple[str, ...]
    day: Callable[[int, Say, str], str]
    of: str = " "
    """Between day, month and year."""


_CALENDARS = {
    "de": _Calendar(
        _names("Januar Februar März April Mai Juni Juli August September Oktober November Dezember"), _german_day
    ),
    "fr": _Calendar(
        _names("janvier février mars avril mai juin juillet août septembre octobre novembre décembre"),
        _first("premier"),
    ),
    "es": _Calendar(
        _names("enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre"),
        _first("uno"),
        " de ",
    ),
    "it": _Calendar(
        _names("gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre"),
        _first("primo"),
    ),
    "pt": _Calendar(
        _names("janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro"),
        _first("primeiro"),
        " de ",
    ),
    "nl": _Calendar(
        _names("januari februari maart april mei juni juli augustus september oktober november december"),
        lambda day, say, before: say(day, "cardinal"),
    ),
}
_ONE = {"de": "ein", "fr": "une", "es": "una", "it": "una", "pt": "uma"}
"""The hour 1."""
_HOURS = {
    "de": ("Uhr", "Uhr", " "), "fr": ("heure", "heures", " "), "es": ("", "", " "), "it": ("", "", " e "),
    "pt": ("hora", "horas", " e "), "nl": ("uur", "uur", " "),
}  # fmt: skip
"""The word after one hour and after several, and what is between them and the minutes."""
_ZERO_MINUTES = {"es": "en punto", "it": "in punto"}
_HOUR_WORD = {"de": "Uhr", "fr": "heures?", "es": "horas?|h", "it": "ore?", "pt": "horas?", "nl": "uur"}
_DASH_OF_TIMES = regex.compile(
    r"(?<=(?<![\d:])\d?\d(?::\d\d|\s?h(?:\d\d)?))\s?[-–〜～]\s?(?=[012]?\d(?::\d\d|\s?h)(?![\d:]))"
)
_DAY_FIRST = regex.compile(
    r"(?<![\w.,/-])(?P<day>0?[1-9]|[12]\d|3[01])(?P<mark>[./-])(?P<month>0?[1-9]|1[0-2])(?P=mark)(?P<year>[12]\d{3})(?![\d/]|[.-]\d)"
)
_ISO = regex.compile(
    r"(?<![\w.,/-])(?P<year>[12]\d{3})-(?P<month>0[1-9]|1[0-2])-(?P<day>0[1-9]|[12]\d|3[01])(?![\d/]|[.-]\d)"
)
_CLOCK = r"(?<![\w.,:])(?P<hour>[01]?\d|2[0-4]){mark}(?P<minute>[0-5]\d)(?![\d:]|[.,]\d)"
_JAPANESE_DATE = regex.compile(
    r"(?<![\d/-])(?P<year>[12]\d{3})(?P<mark>[/-])(?P<month>0?[1-9]|1[0-2])(?P=mark)(?P<day>0?[1-9]|[12]\d|3[01])(?![\d/-])"
)


def read_dates(text: str, language: str, say: Say) -> str:
    """Return the text with its dates and times of day in words, as far as there are rules for the language."""
    to = TO.get(language, "")
    if to:
        text = _DASH_OF_TIMES.sub(to if language == "ja" else f" {to} ", text)
    if language == "ja":
        text = _JAPANESE_DATE.sub(lambda match: f"{match['year']}年{int(match['month'])}月{int(match['day'])}日", text)
        return regex.sub(
            _CLOCK.format(mark=":").replace("\\w", "\\d"),
            lambda match: f"{int(match['hour'])}時{_minutes(match)}",
            text,
        )
    calendar = _CALENDARS.get(language)
    if calendar is None:
        return text

    def date(match: Match) -> str:
        before = match.string[max(0, match.start() - 24) : match.start()]
        day = calendar.day(int(match["day"]), say, before)
        return calendar.of.join((day, calendar.months[int(match["month"]) - 1], say(int(match["year"]), "year")))

    text = _ISO.sub(date, _DAY_FIRST.sub(date, text))
    if language == "de":
        text = _german_ordinals(_german_days(text, calendar, say), say)
    elif language == "fr":
        text = _french_ordinals(_first_days(text, calendar, say), say)
    elif language in ("it", "pt"):
        text = _first_days(text, calendar, say)
    return _times(text, language, say)


def _minutes(match: Match) -> str:
    return "" if match["minute"] == "00" else f"{int(match['minute'])}分"


def _german_days(text: str, calendar: _Calendar, say: Say) -> str:
    """Read 3. Dezember and 24. Dez. with an ordinal, and the year after it."""
    names = "|".join((*calendar.months, *(f"{name[:3]}\\b\\.?" for name in calendar.months)))

    def day(match: Match) -> str:
        words = calendar.day(int(match["day"]), say, match.string[max(0, match.start() - 24) : match.start()])
        month = next(name for name in calendar.months if name.startswith(match["month"].rstrip(".")[:3]))
        return f"{words} {month}" + (f" {say(int(match['year']), 'year')}" if match["year"] else "")

    text = _DAYS_FROM_TO.sub(r"\1 bis ", text)
    text = _DAY_AND_MONTH.sub(lambda match: _german_day_and_month(match, calendar, say), text)
    return regex.sub(
        rf"(?<![\w.,])(?P<day>[1-9]|[12]\d|3[01])\.\s?(?P<month>{names})(?!\w)(?:\s+(?P<year>[12]\d{{3}})(?![\d.,:]\d|\d))?",
        day,
        text,
    )


def _german_one(match: Match) -> str:
    return "eine" if match["feminine"] or _GERMAN_FEMININE.fullmatch(match["noun"] or "") else "ein"


def _german_day_and_month(match: Match, calendar: _Calendar, say: Say) -> str:
    """Read am 24.12., and keep the stop at the end of the sentence."""
    before = match.string[max(0, match.start() - 24) : match.start()]
    stop = "." if match.end() == len(match.string) else ""
    return f"{calendar.day(int(match['day']), say, before)} {calendar.months[int(match['month']) - 1]}{stop}"


def _german_ordinals(text: str, say: Say) -> str:
    """Read die 2. Ausgabe and im 19. Jahrhundert with an ordinal, and 1990er as a decade."""

    def ordinal(match: Match) -> str:
        ending = "" if match["article"].lower() in ("der", "die", "das") else "n"
        return f"{match['article']}{match['blank']}{say(int(match['number']), 'ordinal')}{ending}"

    text = regex.sub(
        r"\b(?P<article>[Dd]er|[Dd]ie|[Dd]as|[Dd]em|[Dd]en|[Dd]es|[Ii]m|[Aa]m|[Vv]om|[Zz]um|[Zz]ur|[Bb]eim)(?P<blank>\s)"
        r"(?P<number>[1-9]\d?)\.(?=\s\p{L})",
        ordinal,
        text,
    )
    text = regex.sub(r"(?<![\w.,])([1-9]\d?)er(?![\p{L}\d])", lambda match: f"{say(int(match[1]), 'cardinal')}er", text)
    return regex.sub(r"(?<![\w.,])([12]\d\d0)er\b", lambda match: f"{say(int(match[1]), 'year')}er", text)


def _french_ordinals(text: str, say: Say) -> str:
    """Read 2e, 3ème, 1er and 1re."""

    def ordinal(match: Match) -> str:
        number, ending = int(match["number"]), match["ending"]
        if number == 1:
            return "première" if ending in ("re", "ère") else "premier" if ending == "er" else match.group()
        return say(number, "ordinal") if ending in ("e", "ème", "eme") else match.group()

    return regex.sub(r"(?<![\w.,])(?P<number>[1-9]\d{0,2})(?P<ending>e|ème|eme|er|re|ère)\b", ordinal, text)


def _first_days(text: str, calendar: _Calendar, say: Say) -> str:
    """Read the first of a month as an ordinal: 1er janvier, 1º gennaio."""
    names = "|".join(calendar.months)
    return regex.sub(
        rf"(?<![\w.,])1(?:er|º|°)?(?=\s(?:de\s)?(?:{names})\b)", lambda match: calendar.day(1, say, ""), text
    )


def _times(text: str, language: str, say: Say) -> str:
    one, many, joint = _HOURS[language]
    word = rf"(?:\s?(?:{_HOUR_WORD[language]})(?!\w))?"

    def time(match: Match) -> str:
        hour, minute = int(match["hour"]), match["minute"]
        said = _ONE[language] if hour == 1 and language in _ONE else say(hour, "cardinal")
        if language == "pt" and hour in (2, 22):
            said = said.replace("dois", "duas")
        if language == "fr" and hour == 21:
            said += "e"
        name = one if hour == 1 or (language == "fr" and hour == 0) else many
        words = f"{said} {name}".rstrip()
        if minute in (None, "00"):
            return f"{words} {_ZERO_MINUTES[language]}" if language in _ZERO_MINUTES and minute else words
        zero = f"{say(0, 'cardinal')} " if minute[0] == "0" and language in ("de", "es", "it", "nl") else ""
        minutes = say(int(minute), "cardinal")
        if language == "fr" and minutes.endswith("un"):
            minutes += "e"
        return f"{words}{joint}{zero}{minutes}"

    text = regex.sub(_CLOCK.format(mark=":") + word, time, text)
    if language in ("fr", "pt"):
        return regex.sub(
            r"(?<![\w.,:])(?P<hour>[01]?\d|2[0-4])\s?h(?:\s?(?P<minute>[0-5]\d))?(?!\w|[.,:]\d)", time, text
        )
    if language == "de":
        text = regex.sub(_CLOCK.format(mark=r"\.") + r"\s?Uhr\b", time, text)
        return _GERMAN_ONES.sub(_german_one, text)
    return text
