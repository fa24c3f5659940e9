"""The quick readers give what the rules give, and read what occurs often; quick tokens are those of the library."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.common.checkpoint.model_dir import open_model_dir
from services.encode.text.borders.words import words
from services.encode.text.normalise import Normaliser
from services.encode.text.reading.chinese.table import read_by_rules as read_chinese_by_rules
from services.encode.text.reading.chinese.table import read_chinese
from services.encode.text.reading.english.table import read_by_rules, read_english
from services.encode.text.reading.quick.english import read_quickly
from services.encode.text.tokenizer import TextTokenizer

WORDS = sorted(
    words("""
    the a of in is was on at by to and or with about call room rooms code order number flight PIN account page May March
    Jan Sept Monday people tickets units bus it costs more than BA m s h min GB mph am PM since year Q3 million dollars
    end ending last four digits zip text dial o'clock class Street No. no. I II XIV King Louis Chapter error x by ft
    half I'm items that version Unit BC USD EUR December, he said: - / % ( "well" World War first
    rooms: orders: Orders: accounts: PIN: room: The In Since elections sales error page RTX Office Unauthorized in. bn
    Chapter Pixel low over Sizes
    """)
)
COUNT = st.one_of(st.integers(0, 31), st.integers(0, 999), st.integers(1000, 2100), st.integers(0, 10**7))


def written(value: int, kind: int, other: int) -> str:
    return (
        f"{value}", f"{value:,}", f"{value % 100}.{other}", f"{value}%", f"${value:,}.{other % 100:02d}", f"${value}",
        f"{value % 30}:{other % 66:02d}", f"{value % 24}:{other % 60:02d} PM",
        f"{other % 1000:03d}-555-{value % 10**4:04d}",
        f"#{value}", f"{value % 200}th", f"{value} km", f"{value}kg", f"{value} km/h", f"{value} ms", f"0{value}",
        f"{value % 31 + 1}, {1000 + other}", f"{value % 12}pm", f"{value}-{other}", f"{value % 9}/7",
        f"A{value}", f"-{value}",
        f"({value})", f"'{value}",
    )[kind]  # fmt: skip


NUMBER = st.builds(written, COUNT, st.integers(0, 23), st.integers(0, 999))
MARK = st.sampled_from(["", "", "", "", ",", ".", ":", "?", ")", '"'])
PART = st.one_of(st.sampled_from(WORDS), st.sampled_from(WORDS), st.builds(lambda n, mark: n + mark, NUMBER, MARK))


@settings(max_examples=150)
@given(st.lists(PART, min_size=1, max_size=8))
@example(["#90", "km"])
@example(["account", "is", "65", "MB"])
@example(["text", "677%"])
@example(["March,", "1271", "km/h"])
@example(["December", "3", "PM"])
@example(["code", "is", "1234,", "5"])
@example(["year", "6:12:"])
def test_sentences_with_numbers_are_read_as_by_the_rules(parts: list[str]) -> None:
    text = " ".join(parts)
    assert read_english(text) == read_by_rules(text)


NORMALISER = Normaliser("wetext")
CHINESE = sorted(words("""今天 的 是 大约 第 周 电话 房间号 验证码 转 拨打 十 共 我们 、 ， 。 ："""))
UNITS = sorted(
    words("""
    年底 年5月 后 至2022年 到3次 到5月 错误 劳动节 分之一 组 层 （ ） 个 元 年 月 日 号 人 楼 点 分 公里 年代 万 亿 多
    章 ， 台 种 个月 级 % ： ￥
    """)
)


def chinese(before: str, value: int, other: int, kind: int, after: str) -> str:
    number = (
        str(value), f"{value % 1000}.{other}", f"{value % 26}:{other % 62:02d}",
        f"{1990 + other % 40}年3月{value % 31}日",
        f"13{value:09d}", f"{value}%",
    )[kind]  # fmt: skip
    return f"{before}{number}{after}"


CLAUSE = st.builds(
    chinese, st.sampled_from(CHINESE), COUNT, st.integers(0, 999), st.integers(0, 5), st.sampled_from(UNITS)
)


@settings(max_examples=40)
@given(st.lists(CLAUSE, min_size=1, max_size=2))
@example(["密码11:42"])
@example(["电话84米"])
@example(["24年5月和98年世界杯", "05年底"])
@example(["2019至2022年", "2到3次和2到3月"])
@example(["验证码是：1234", "取件码为：12"])
@example(["404错误和5.1劳动节", "80、90后"])
@example(["倒计时12:30", "录音时长1:05", "24:05"])
@example(["2024款", "2024届", "共2024款"])
@example(["1208房", "3栋2单元501", "8楼803"])
@example(["价格199.00元", "2点05分", "2朵花"])
def test_chinese_sentences_are_read_as_by_the_rules(clauses: list[str]) -> None:
    text = "".join(clauses)
    quick = read_chinese(text, NORMALISER.read_numbers)
    assert quick.replace(" ", "") == read_chinese_by_rules(text, NORMALISER.read_numbers).replace(" ", "")


def test_frequent_chinese_sentences_need_no_wetext() -> None:
    def refused(text: str) -> str:
        raise AssertionError(text)

    text = "您的预约是2025年3月2日下午8:48，房间号560，增加了8.4%，第2条有2个。"
    words = "您的预约是二零二五年三月二日下午八点四十八分，房间号五六零，增加了百分之八点四，第二条有两个。"
    assert read_chinese(text, refused) == words


@pytest.mark.parametrize(
    "text",
    [
        "Your appointment is on March 14, 2025 at 3:05 PM in room 214.",
        "The total comes to $1,204.50, which is 12% more than in 2023.",
        "Please call 415-555-0199 and give the code 048213.",
        "Order #482913 has 12 items and weighs 4.5 kg.",
        "About 12,500 people live there, and 3 of 40 schools are closed.",
        "The 2nd train leaves at 7pm and covers 120 km in 2 hours at 80 km/h.",
    ],
)
def test_frequent_sentences_need_no_rules(text: str) -> None:
    assert read_quickly(text) == read_by_rules(text)


TOKENIZER = TextTokenizer(open_model_dir(Path(__file__).parents[2] / "data" / "cosyvoice2-mini"))


ASCII = "ab eIsStRrVvmM'dll0159,.?!;:\\\"-()*^~_@ \x7f"


@settings(max_examples=200)
@given(st.one_of(st.text(ASCII, max_size=60), st.text(f"{ASCII}今天，。！“”…", max_size=60)))
@example("I'm  here,   and 'S o's 12")
def test_words_have_the_ids_of_the_library(text: str) -> None:
    text = text.rstrip() + "."
    library = TOKENIZER.encode(text + " \u00e9")  # a letter that is not encoded by words
    assert TOKENIZER.encode(text) == library[: -len(TOKENIZER.encode(" \u00e9"))]


@settings(max_examples=50)
@given(st.text("ab I's.,?! 今天。", max_size=20), st.sampled_from("b9\"('今"), st.text("ab 0.,' 今", max_size=20))
def test_ids_of_texts_that_join_are_those_of_the_whole(first: str, begin: str, second: str) -> None:
    first, second = f"{first}.", f" {begin}{second}"
    assert TOKENIZER.joins(first, second)
    assert TOKENIZER.encode(first) + TOKENIZER.encode(second) == TOKENIZER.encode(first + second)
