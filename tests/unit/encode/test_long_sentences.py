"""Sentences that are longer than a checkpoint speaks reliably are divided."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest

from services.common.checkpoint.model_dir import ModelDir, open_model_dir
from services.encode.text.frontend import TextFrontend
from services.encode.text.normalise import Normaliser
from services.encode.text.pieces import Piece, TextRequest
from services.encode.text.split import as_sentence, shortened
from services.encode.text.text_encoder import SentenceEncoder
from tests.unit.decode.decode_support import ROOT

LONG = (
    "In 2024 the old man carried a large bag of apples up the narrow hill to the town, where he lived with "
    "his two sons, and because it was late nobody was in the street. He slept."
)


def words(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("one two three four five six.", ["one two three four five six."]),
        ("one two three, four five six seven eight.", ["one two three,", " four five six seven eight."]),
        ("one two three four because six seven eight.", ["one two three four", " because six seven eight."]),
        ("one two three four with six seven eight.", ["one two three four", " with six seven eight."]),
        ("one two three four five six seven eight.", ["one two three four", " five six seven eight."]),
        (
            "So, two three four five because seven eight nine.",
            ["So, two three four five", " because seven eight nine."],
        ),
        ("one—two three—four five six seven eight nine.", ["one—two three—", "four five six seven eight nine."]),
    ],
    ids=["short", "pause", "clause", "phrase", "words", "a pause too early", "dash"],
)
def test_a_part_ends_at_the_best_place(text: str, parts: list[str]) -> None:
    assert shortened(text, 6, words) == parts


def test_parts_have_similar_lengths_and_are_the_text() -> None:
    text = " ".join(f"w{number}" for number in range(50)) + "."
    parts = shortened(text, 12, words)
    assert len(parts) == 5
    assert all(8 <= words(part) <= 12 for part in parts)
    assert "".join(parts) == text


def test_what_cannot_be_divided_stays_whole() -> None:
    assert shortened("x" * 99, 10, len) == ["x" * 99]
    assert shortened("x" * 30 + " y.", 10, len) == ["x" * 30, " y."]
    assert shortened(LONG, 0, len) == [LONG]


def test_a_pause_becomes_a_full_stop() -> None:
    assert as_sentence("one two,", "en") == "one two."
    assert as_sentence(" one two", "en") == " one two."
    assert as_sentence("one two —", "en") == "one two."
    assert as_sentence("一二三，", "zh") == "一二三。"


@cache
def tiny() -> tuple[ModelDir, TextFrontend]:
    model = open_model_dir(ROOT / "models" / "tiny")
    return model, TextFrontend(model, Normaliser("builtin"))


def pieces(fragments: Sequence[str]) -> list[Piece]:
    encoder = SentenceEncoder(tiny()[1], request=TextRequest(words=True))
    steps = [step for fragment in fragments for step in encoder.push(fragment)]
    return [piece for step in (*steps, *encoder.finish()) for piece in step]


def test_the_embedded_voice_gets_no_longer_sentence_than_it_speaks() -> None:
    model, _ = tiny()
    made = pieces([LONG])
    assert len(made) > 3
    assert all(len(piece.ids) <= model.card.split.longest for piece in made)
    assert all(piece.text.endswith(".") for piece in made)
    spoken = " ".join(piece.text.strip(" .") for piece in made)
    assert spoken.replace(",", "") == (LONG.replace("2024", "twenty twenty-four").replace(",", "").replace(".", ""))


def test_words_of_the_parts_are_those_of_the_text() -> None:
    found = [LONG[word.start : word.end] for piece in pieces([LONG]) for word in piece.words]
    assert found == [word.strip(",.") for word in LONG.split()]


@pytest.mark.parametrize("size", [1, 7, 50])
def test_parts_do_not_depend_on_fragments(size: int) -> None:
    assert pieces([LONG[at : at + size] for at in range(0, len(LONG), size)]) == pieces([LONG])
