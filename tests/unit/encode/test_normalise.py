"""Readings of numbers and marks, with and without wetext."""

from __future__ import annotations

import pytest

from services.encode.text.normalise import Language, Normaliser


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("$1,234.50", "one thousand, two hundred and thirty-four point five zero dollars"),
        ("1234567", "one million, two hundred and thirty-four thousand, five hundred and sixty-seven"),
        ("9" * 16, " ".join(["nine"] * 16)),
        ("007", "seven"),
        ("the 21st", "the twenty-first"),
        ("e.g. 5%", "e g five percent"),
        ("Mrs. Ng vs. Mr. Li", "Missus Ng versus Mister Li"),
        (" kept as it is: it's 'so' ", "kept as it is: it's 'so'"),
        ("1 <|tag|>", "1 <|tag|>"),
    ],
)
def test_english(text: str, words: str) -> None:
    assert Normaliser("builtin")(text, "en") == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("面积 5 m²（约），", "面积5 m平方约。"),
        ("版本3.5，A - B 新的.", "版本3点5，A，B新的。"),
        ("一\n二——三", "一二 三"),
    ],
)
def test_chinese_without_wetext(text: str, words: str) -> None:
    assert Normaliser("builtin")(text, "zh") == words


@pytest.mark.parametrize(
    ("text", "words", "language"),
    [
        ("今天是2024年3月5日。", "今天是二零二四年三月五日。", "zh"),
        ("共1,234人，￥12.5元", "共一千二百三十四人，十二点五元", "zh"),
        ('他说"5"个', '他说"五"个', "zh"),
        ('He said "5".', 'He said "five".', "en"),
    ],
)
def test_wetext_reads_chinese_only(text: str, words: str, language: Language) -> None:
    pytest.importorskip("wetext")
    normaliser = Normaliser("wetext")
    assert normaliser.name == Normaliser().name == "wetext"
    assert normaliser(text, language) == words
