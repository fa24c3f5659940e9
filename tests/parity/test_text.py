"""Text against the golden front-end: ids, splitting, number spelling, blanks, punctuation (spec section 2)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from services.common.modeldir import ModelDir, SplitConfig, open_model_dir
from services.encode.normalise import Normaliser, drop_blanks, only_punctuation, spell_digits
from services.encode.split import split_text
from services.encode.tokenizer import TextTokenizer

DATA = Path(__file__).parents[1] / "data"


def golden(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((DATA / name / "text_frontend.json").read_text(encoding="utf-8"))
    return data


def cosyvoice2() -> ModelDir:
    return open_model_dir(DATA / "cosyvoice2-mini")


def cosyvoice3() -> ModelDir:
    base = cosyvoice2()  # the committed part of cosyvoice3-mini is no whole model directory
    llm = dataclasses.replace(base.llm, text_vocab=768)
    return dataclasses.replace(base, path=DATA / "cosyvoice3-mini", family="cosyvoice3", llm=llm)


V2, V3 = golden("cosyvoice2-mini"), golden("cosyvoice3-mini")


@pytest.mark.parametrize(("text", "ids"), V2["encode"].items())
def test_cosyvoice2_ids(text: str, ids: list[int]) -> None:
    assert TextTokenizer(cosyvoice2()).encode(text) == ids


@pytest.mark.parametrize(("text", "ids"), V3["encode"].items())
def test_cosyvoice3_ids(text: str, ids: list[int]) -> None:
    assert TextTokenizer(cosyvoice3()).encode(text) == ids


def test_special_tokens_have_their_ids() -> None:
    for model, ids in ((cosyvoice2(), V2["special_ids"]), (cosyvoice3(), V3["ids"])):
        tokenizer = TextTokenizer(model)
        assert {token: tokenizer.token_id(token) for token in ids} == ids


@pytest.mark.parametrize("case", V2["split"], ids=lambda case: case["text"][:20])
def test_split(case: dict[str, Any]) -> None:
    tokenizer = TextTokenizer(cosyvoice2())
    pieces = split_text(case["text"], case["lang"], SplitConfig(), lambda text: len(tokenizer.encode(text)))
    assert pieces == case["utts"]


@pytest.mark.parametrize(("text", "words"), V2["spell"].items())
def test_digits_are_spelled(text: str, words: str) -> None:
    assert spell_digits(text) == words
    assert Normaliser("builtin")(text, "en") == words


@pytest.mark.parametrize(("text", "kept"), V2["blank"].items())
def test_blanks(text: str, kept: str) -> None:
    assert drop_blanks(text) == kept


@pytest.mark.parametrize(("text", "verdict"), V2["only_punct"].items())
def test_only_punctuation(text: str, verdict: bool) -> None:
    assert only_punctuation(text) is verdict
