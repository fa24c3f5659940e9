"""Reading back the words of a number gives the number, in every class of writing."""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.encode.text.normalise import Normaliser
from services.encode.text.reading.chinese.numbers import read_plain
from tests.support.number_words import MONTHS, cardinal, chinese_number, digits, nonzero_digits, number, ordinal, year

NORMALISER = Normaliser("builtin")
UNGROUPED = st.integers(0, 9999)
BIG = st.one_of(st.integers(0, 10**6), st.integers(0, 10**15))


def read(text: str) -> str:
    return NORMALISER(text, "en")


def grouped(value: int, mark: str) -> str:
    return f"{value:,}".replace(",", mark)


def indian(value: int) -> str:
    head, tail = divmod(value, 1000)
    pairs = []
    while head:
        head, pair = divmod(head, 100)
        pairs.append(f"{pair:02d}" if head else str(pair))
    return ",".join([*reversed(pairs), f"{tail:03d}"]) if pairs else str(tail)


@given(BIG, st.sampled_from([",", " ", "\u202f", "'", "’"]))
def test_quantities_in_groups(value: int, mark: str) -> None:
    assert number(read(f"{grouped(value, mark)} km").removesuffix("s").removesuffix(" kilometer")) == value


@given(st.integers(0, 10**12))
def test_indian_groups(value: int) -> None:
    assert number(read(f"{indian(value)} km").removesuffix("s").removesuffix(" kilometer")) == value


@given(st.integers(10**6, 10**15))
def test_groups_by_dots(value: int) -> None:
    words = read(grouped(value, "."))
    assert (
        (digits(words.replace(" dot", "")) == str(value)) if "dot" in words else number(words) == value
    )  # 1.100.100.100


@given(UNGROUPED, st.sampled_from(["", "-", "−"]))
def test_ungrouped_numbers(value: int, sign: str) -> None:
    words = read(f"it is {sign}{value}").removeprefix("it is ")
    assert year(words.removeprefix("minus ")) == value
    assert words.startswith("minus ") == bool(sign)


@given(st.integers(10**4, 10**40))
def test_long_numbers_keep_their_value(value: int) -> None:
    assert number(read(str(value))) == value


@given(BIG, st.text("0123456789", min_size=1, max_size=12), st.sampled_from(["", "-"]), st.booleans())
def test_decimals(whole: int, fraction: str, sign: str, groups: bool) -> None:
    written = f"{whole:,}" if groups else str(whole)
    words = read(f"x: {sign}{written}.{fraction}").removeprefix("x: ")
    assert number(words) == Decimal(f"{sign}{whole}.{fraction}")
    assert digits(words.partition("point ")[2]) == fraction


@given(st.integers(1, 10**6))
def test_ordinals(value: int) -> None:
    suffix = "th" if 10 <= value % 100 < 20 else {1: "st", 2: "nd", 3: "rd"}.get(value % 10, "th")
    assert ordinal(read(f"{value}{suffix}")) == ordinal(read(f"{value}{suffix.upper()}")) == value


@given(st.integers(0, 10**9), st.none() | st.integers(0, 99), st.sampled_from(["", "-"]), st.booleans())
@example(0, 5, "", False)
@example(1, 1, "", False)
def test_money(dollars: int, cents: int | None, sign: str, groups: bool) -> None:
    written = f"{dollars:,}" if groups else str(dollars)
    words = read(f"{sign}${written}" + ("" if cents is None else f".{cents:02d}"))
    assert words.startswith("minus ") == bool(sign)
    match = re.fullmatch(r"(?:minus )?(?:(.+?) dollars?)?(?: and )?(?:(\S+) cents?)?", words)
    assert match is not None
    assert (cardinal(match[1]) if match[1] else 0) == dollars
    assert (cardinal(match[2]) if match[2] else 0) == (cents or 0)


@given(
    st.integers(1, 999), st.integers(1, 99), st.sampled_from([("k", "thousand"), ("M", "million"), ("bn", "billion")])
)
def test_scales_of_money(whole: int, fraction: int, scale: tuple[str, str]) -> None:
    words = read(f"${whole}.{fraction}{scale[0]}")
    assert words.endswith(f" {scale[1]} dollars")
    assert number(words.removesuffix(f" {scale[1]} dollars")) == Decimal(f"{whole}.{fraction}")


@given(
    st.integers(0, 24), st.integers(0, 59), st.none() | st.integers(0, 59), st.sampled_from(["", " PM", "am", " a.m."])
)
def test_times(hour: int, minute: int, second: int | None, half: str) -> None:
    words = read(f"at {hour}:{minute:02d}" + ("" if second is None else f":{second:02d}") + half)
    if half:
        assert words.endswith(" PM" if "P" in half else " AM")
    words = words.removeprefix("at ").removesuffix(" AM").removesuffix(" PM")
    clock, _, seconds = words.partition(" and ")
    assert (seconds == "") == (second is None)
    assert not seconds or cardinal(seconds.split(" ")[0]) == second
    first, _, rest = clock.removesuffix(" o'clock").partition(" ")
    assert cardinal(first) == hour
    assert (cardinal(rest.removeprefix("oh ")) if rest else 0) == minute


@given(st.integers(1010, 2099))
def test_years(value: int) -> None:
    assert year(read(f"in {value}").removeprefix("in ")) == value


@given(
    st.dates(date(1000, 1, 1), date(2999, 12, 31)),
    st.sampled_from(["{0:04d}-{1:02d}-{2:02d}", "{3} {2}, {0:04d}", "{3} {2}th, {0:04d}", "{2} {3} {0:04d}"]),
)
def test_dates(day: date, form: str) -> None:
    parts = [day.year, day.month, day.day]
    words = read(form.format(*parts, MONTHS[parts[1] - 1]))
    match = re.fullmatch(r"(?:the (.+) of )?([A-Z]\w+)(?: ([a-z-]+))?, (.+)", words)
    assert match is not None
    assert MONTHS.index(match[2]) + 1 == parts[1]
    assert ordinal(match[1] or match[3]) == parts[2]
    assert year(match[4]) == parts[0]


@given(st.from_regex(r"\A0[0-9]{1,12}\Z") | st.from_regex(r"\A[1-9][0-9]{3,15}[1-9]\Z"))
def test_identifiers_keep_every_digit(written: str) -> None:
    assert digits(read(f"it was {written} then").removeprefix("it was ").removesuffix(" then")) == written


@given(
    st.sampled_from(["code", "room", "PIN", "flight", "order #", "zip", "account number"]),
    st.from_regex(r"\A[0-9]{3,12}\Z"),
)
def test_digits_after_a_word_that_names_them(word: str, written: str) -> None:
    assert digits(read(f"{word} {written}").removeprefix(word.rstrip("# ")).replace("number", "")) == written


@given(st.sampled_from(["room", "Route", "No.", "seat", "page", "Windows", "bus"]), st.integers(0, 99))
def test_short_numbers_after_a_word(word: str, value: int) -> None:
    assert cardinal(read(f"{word} {value}").split(" ", 1)[1]) == value


@given(
    st.from_regex(r"\A[2-9][0-9]{9}\Z"),
    st.sampled_from(["{}-{}-{}", "({}) {}-{}", "{}.{}.{}", "+1 {} {} {}", "1-{}-{}-{}", "call {} {} {}"]),
)
def test_telephone_numbers_keep_every_digit(number_: str, form: str) -> None:
    written = form.format(number_[:3], number_[3:6], number_[6:])
    words = read(written).replace("plus", "").replace("call", "")
    assert digits(words) == re.sub(r"\D", "", written)


PARTS = [
    *"0123456789", "00", "10", "12", "2024", "1999", *".,:/-  $€%#+()'’&", "km", " m", "am", " PM", "March ", " May ",
    "room ", "call ", "°C", "x", "A", "th", "s", "k", "M", "–", "¢", " and ", "No. ", "v", "h", "ft", "~", "=", "*",
    "\u00a0", "GPT-",
]  # fmt: skip


@settings(max_examples=400)
@given(st.lists(st.sampled_from(PARTS), max_size=14).map("".join))
def test_no_digit_is_lost_or_invented_whatever_is_around_it(text: str) -> None:
    words = read(text)
    assert not re.search(r"[0-9]", words)
    written, said = nonzero_digits(text), nonzero_digits(words)
    said["2"] += min(words.count("second"), max(0, written["2"] - said["2"]))  # an ordinal or a unit
    assert said == written, words


@given(st.integers(0, 10**8 - 1), st.none() | st.text("0123456789", min_size=1, max_size=8))
def test_plain_chinese_numbers(whole: int, fraction: str | None) -> None:
    written = str(whole) + (f".{fraction}" if fraction else "")
    clause = f"共{written}元"
    words = read_plain(clause)
    if written == "2":
        assert words is None  # 两 or 二, which wetext knows
    else:
        assert words is not None
        assert chinese_number(words.removeprefix("共").removesuffix("元")) == Decimal(written)


@pytest.mark.parametrize("clause", ["GPT4", "90年代", "12345", "3:00", "5-6个", "007", "2个", "5km", "¥5", "5 °C"])
def test_what_is_not_plain_is_left_to_wetext(clause: str) -> None:
    assert read_plain(clause) is None
