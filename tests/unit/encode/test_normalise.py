"""Readings by each normaliser; tests/data/text_cases.yaml has the cases of single kinds."""

from __future__ import annotations

import importlib.util

import pytest

from services.encode.text.normalise import Normaliser


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("$1,234.50", "$one,two hundred and thirty-four.fifty"),
        (
            "007 and 1234567",
            "seven and one million, two hundred and thirty-four thousand, five hundred and sixty-seven",
        ),
        ("9" * 16, " ".join(["nine"] * 16)),
        ("Mrs. Ng, x2y, 50% 😀", "Mrs. Ng, xtwoy, fifty% 😀"),
        ("1 <|tag|>", "1 <|tag|>"),
    ],
)
def test_upstream_spells_runs_of_digits_alone(text: str, words: str) -> None:
    assert Normaliser("upstream")(text, "en") == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("9" * 16, " ".join(["nine"] * 16)),
        ("1," + ",".join(["000"] * 6), "one quintillion"),
        (",".join(["123"] * 13), " ".join(["one two three"] * 13)),
        (" kept as it is: it's 'so' ", "kept as it is: it's 'so'"),
        ("1 <|tag|>", "1 <|tag|>"),
    ],
)
def test_english(text: str, words: str) -> None:
    assert Normaliser("builtin")(text, "en") == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("面积 5 m²（约），", "面积5 m平方，约。"),
        ("版本3.5，A - B 新的.", "版本3点5，A，B新的。"),
        ("一\n二——三", "一二 三"),
    ],
)
def test_chinese_without_wetext(text: str, words: str) -> None:
    assert Normaliser("builtin")(text, "zh") == words


def test_wetext_is_not_needed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    normaliser = Normaliser("auto")
    assert normaliser.name == "builtin"
    assert "wetext is not installed" in caplog.text
    assert normaliser("共12人，编号007", "zh") == "共12人，编号零零七"
    with pytest.raises(ValueError, match="pip install wetext"):
        Normaliser("wetext")


def test_upstream_reads_chinese_by_wetext_alone() -> None:
    pytest.importorskip("wetext")
    assert Normaliser("upstream")("这是GPT-4.", "zh") == "这是GPT负四。"
    assert Normaliser("auto")("这是GPT-4.", "zh") == "这是GPT四。"
