"""Numbers before Korean nouns that count, which take the native numerals, and times of day: 3시, 5명, 14:30.

num2words has the numerals of Chinese origin only: with them 3시 would be as wrong as "three hour" in English.
"""

from __future__ import annotations

import regex

from services.encode.text.reading.number_words import number_words

_ONES = ("", "한", "두", "세", "네", "다섯", "여섯", "일곱", "여덟", "아홉")
_TENS = ("", "열", "스물", "서른", "마흔", "쉰", "예순", "일흔", "여든", "아흔")
_COUNTERS = (
    r"(?:시간|시(?![가-힣]*즌|리즈|장|험|민|행|도)|개(?![월년국소교사구시도점층항])|명(?![령예절])|살(?![균인])|번째|마리|잔(?![액고여])"
    r"|권(?![한리역])|장(?![관소치기애비])|병(?![원사실])|송이|켤레|그루|사람|가지(?!고)|군데|달(?![러성력])|벌(?![금칙])|그릇|조각|배(?![송우경터달치포열])"
    r"|곳|건(?![물강설축])|편(?![의지안리도])|골(?![프목])|바퀴|쌍|끼|대(?![학중통표책한로선회]|\s?\d)|큰술|작은술|컵|스푼|봉지|캔|줄)"
)
_COUNTED = regex.compile(rf"(?<![\d.,:/~〜–-])(?P<number>[1-9]\d?)\s?(?P<counter>{_COUNTERS})")
_CLOCK = regex.compile(r"(?<![\d.,:/-])(?P<hour>[01]?\d|2[0-4]):(?P<minute>[0-5]\d)(?![\d:]|\.\d)")
_MONTH = regex.compile(r"(?<![\d.,])0?(?P<number>6|10)\s?월(?!드)")
_MONTHS = {"6": "유월", "10": "시월"}
"""Months whose names are not the numeral and the word for month."""
_LAST_NATIVE_HOUR = 12


def _native(value: int) -> str:
    if value == 20:
        return "스무"  # 스물 is not used before a noun
    return _TENS[value // 10] + _ONES[value % 10]


def _hour(value: int) -> str:
    return _native(value) if 0 < value <= _LAST_NATIVE_HOUR else str(number_words(value, "ko"))


def _counted(match: regex.Match[str]) -> str:
    value, counter = int(match["number"]), match["counter"]
    if counter == "시":
        return f"{_hour(value)} {counter}"
    if counter == "대" and value % 10 == 0:
        return match.group()  # 20대: people in their twenties
    return f"{_native(value)} {counter}"


def _clock(match: regex.Match[str]) -> str:
    hour = f"{_hour(int(match['hour']))} 시"
    return hour if match["minute"] == "00" else f"{hour} {number_words(int(match['minute']), 'ko')} 분"


def read_korean(text: str) -> str:
    """Return the text with times of day, counted things and the irregular months in words."""
    text = _MONTH.sub(lambda match: _MONTHS[match["number"]], text)
    return _COUNTED.sub(_counted, _CLOCK.sub(_clock, text))
