"""Text in any fragments gives the ids of the whole text; a pause releases what may be released."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.modeldir import SplitConfig, open_model_dir
from services.encode.frontend import TextFrontend
from services.encode.normalise import Normaliser
from services.encode.split import split_text
from services.encode.text_encoder import InterleavedEncoder, SentenceEncoder, TextEncoder

DATA = Path(__file__).parents[2] / "data"
FRONTEND = TextFrontend(open_model_dir(DATA / "cosyvoice2-mini"), Normaliser("builtin"))
PARTS = ["hello", "world", " ", "  ", ". ", ", ", "3.5", "1,234", "Dr.", "U.S.", "!", "你好", "。", "[laughter]"]
PARTS += ["<strong>", "</strong>", "\n", "it's", "naïve", "10:30", "“", "”", "?", "Ω", "e\u0301", "🙂", "-", "'s", "'t"]
TEXT = st.lists(st.sampled_from(PARTS), max_size=25).map(lambda parts: "so " + "".join(parts))


def ids_of(encoder: TextEncoder, fragments: list[str]) -> list[int]:
    pieces = [piece for fragment in fragments for piece in encoder.push(fragment)]
    return [id_ for piece in [*pieces, *encoder.finish()] for id_ in piece.ids]


def cut(text: str, places: list[int]) -> list[str]:
    borders = sorted({place % (len(text) + 1) for place in places} | {0, len(text)})
    return [text[start:end] for start, end in pairwise(borders)]


@given(TEXT, st.lists(st.integers(0, 10_000), max_size=12))
@settings(max_examples=200, deadline=None)
def test_interleaved_ids_are_those_of_the_whole(text: str, places: list[int]) -> None:
    assert ids_of(InterleavedEncoder(FRONTEND), cut(text, places)) == FRONTEND.tokenizer.encode(text)


@given(TEXT, st.lists(st.integers(0, 10_000), max_size=12))
@settings(max_examples=100, deadline=None)
def test_sentence_pieces_do_not_depend_on_the_fragments(text: str, places: list[int]) -> None:
    assert ids_of(SentenceEncoder(FRONTEND), cut(text, places)) == ids_of(SentenceEncoder(FRONTEND), [text])


@given(st.text('ab .?!;:,"”。？！你好', min_size=1, max_size=120), st.sampled_from(["zh", "en"]))
@settings(max_examples=200, deadline=None)
def test_splitting_loses_no_character_but_repeated_marks(text: str, language: str) -> None:
    pieces = split_text(text, language, SplitConfig(), len)  # type: ignore[arg-type]
    spoken = "".join(char for char in text if char.isalnum())
    assert "".join(char for piece in pieces for char in piece if char.isalnum()) == spoken
    assert all(len(piece) <= 2 * 120 for piece in pieces)


@pytest.mark.parametrize(
    ("text", "released"),
    [("hello wor", "hello wor"), ("see Dr.", "see Dr."), ("at 12", "at 12"), ("so [laugh", "so"), ("ok <str", "ok")],
)
def test_a_pause_releases_the_last_word_but_no_open_bracket(text: str, released: str) -> None:
    encoder = InterleavedEncoder(FRONTEND)
    pieces = [*encoder.push(text), *encoder.pause()]
    told = "".join(piece.text for piece in pieces)
    assert told == released
    assert not any(piece.final for piece in pieces)
    rest = encoder.finish()
    assert told + "".join(piece.text for piece in rest) == text
