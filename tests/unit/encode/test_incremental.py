"""A pause releases the text that is held back for a continuation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common.checkpoint.model_dir import open_model_dir
from services.encode.text.frontend import TextFrontend
from services.encode.text.normalise import Normaliser
from services.encode.text.text_encoder import InterleavedEncoder, Piece, SentenceEncoder

DATA = Path(__file__).parents[2] / "data"
FRONTEND = TextFrontend(open_model_dir(DATA / "cosyvoice2-mini"), Normaliser("builtin"))


def taken(*works: Iterator[list[Piece]]) -> list[Piece]:
    return [piece for work in works for step in work for piece in step]


@pytest.mark.parametrize(
    ("text", "released"),
    [("hello wor", "hello wor"), ("see Dr.", "see Dr."), ("at 12", "at 12"), ("so [laugh", "so"), ("ok <str", "ok")],
)
def test_a_pause_releases_the_last_word_but_no_open_bracket(text: str, released: str) -> None:
    encoder = InterleavedEncoder(FRONTEND)
    pieces = taken(encoder.push(text), encoder.pause())
    early = "".join(piece.text for piece in pieces)
    assert early == released
    assert not any(piece.final for piece in pieces)
    rest = taken(encoder.finish())
    assert early + "".join(piece.text for piece in rest) == text


def test_a_pause_releases_nothing_of_an_unfinished_sentence() -> None:
    encoder = SentenceEncoder(FRONTEND)
    assert taken(encoder.push("The train leaves at 9."), encoder.pause()) == []
    assert [piece.text for piece in taken(encoder.push("30 or so. "), encoder.finish())] == [
        "The train leaves at nine point three zero or so."
    ]
