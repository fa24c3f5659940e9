"""The words that token ids speak cover the client's own characters, also where the text is read differently."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.checkpoint.model_dir import open_model_dir
from services.common.errors import InvalidInput
from services.encode.text.frontend import TextFrontend
from services.encode.text.normalise import Normaliser
from services.encode.text.pieces import Piece, TextRequest
from services.encode.text.text_encoder import InterleavedEncoder, SentenceEncoder
from services.encode.text.words import word_ids

ROOT = Path(__file__).parents[3]


@cache
def frontend(name: str) -> TextFrontend:
    where = ROOT / "models" / "tiny" if name == "tiny" else ROOT / "tests" / "data" / "cosyvoice2-mini"
    return TextFrontend(open_model_dir(where), Normaliser("builtin"))


def pieces_of(text: str, name: str = "tiny", *, interleaved: bool = False, size: int = 0) -> list[Piece]:
    kind = InterleavedEncoder if interleaved else SentenceEncoder
    encoder = kind(frontend(name), request=TextRequest(words=True))
    step = size or max(1, len(text))
    pushed = [list(encoder.push(text[at : at + step])) for at in range(0, len(text), step)]
    return [piece for steps in (*pushed, list(encoder.finish())) for pieces in steps for piece in pieces]


def spoken(text: str, **how: object) -> list[tuple[str, str]]:
    """Each word as the client wrote it, and as its ids read."""
    found = []
    for piece in pieces_of(text, **how):  # type: ignore[arg-type]
        parts = frontend(str(how.get("name", "tiny"))).tokenizer.pieces(piece.ids)
        for word in piece.words:
            read = "".join(parts[word.first_id : word.first_id + word.ids]).strip()
            found.append((text[word.start : word.end], read))
    return found


def test_plain_words_are_themselves() -> None:
    assert spoken("I want to go home now. The sun went under!") == [
        (word, word.lower()) for word in ("I", "want", "to", "go", "home", "now", "The", "sun", "went", "under")
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("He ran 5km today.", ["He", "ran", "5km", "today"]),
        ("It costs $12.50, I think.", ["It", "costs", "$12.50", "I", "think"]),
        ("Dr. Smith is 42 years old", ["Dr", "Smith", "is", "42", "years", "old"]),
        ("We met at 3:30 pm.", None),
        ("  Two \n blanks -- and (brackets).", ["Two", "blanks", "and", "brackets"]),
        ("Well-known e-mail: don't!", ["Well-known", "e-mail", "don't"]),
    ],
)
def test_what_is_read_in_other_words_is_one_word_of_the_client(text: str, words: list[str] | None) -> None:
    found = spoken(text)
    if words is not None:
        assert [written for written, _ in found] == words
    assert all(read for _, read in found)
    everything = "".join(written for written, _ in found)
    assert {char for char in text if char.isalnum()} <= set(everything)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 5])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I don't know.", ["I", "don't", "know"]),
        ("It costs 3.5 euros, see example.com now.", ["It", "costs", "3.5", "euros", "see", "example.com", "now"]),
        ("A well-known 'thing', really?!", ["A", "well-known", "thing", "really"]),
        ("Oh!!!!!!!!!!!!! [breath] Yes...", None),
    ],
)
def test_words_of_interleaved_text_do_not_depend_on_its_fragments(
    text: str, words: list[str] | None, size: int
) -> None:
    found = spoken(text, interleaved=True, size=size)
    assert found == spoken(text, interleaved=True)
    if words is not None:
        assert [written for written, _ in found] == words


def test_neighbours_that_are_read_alone_as_together_stay_apart() -> None:
    assert [written for written, _ in spoken("Rooms 12 and 15 16 are free.")] == [
        "Rooms", "12", "and", "15", "16", "are", "free",
    ]  # fmt: skip


def test_marks_of_the_text_are_no_words() -> None:
    text = '<speak>One <break time="300ms"/> two <sub alias="three four">3 4</sub> five.</speak>'
    assert [written for written, _ in spoken(text)][:2] == ["One", "two"]
    assert spoken(text)[-1] == ("five", "five")
    covering = [written for written, read in spoken(text) if read == "three four"]
    assert len(covering) == 1
    assert "3 4" in covering[0]


def test_chinese_characters_are_words() -> None:
    found = [written for written, _ in spoken("今天好。Hello there.", name="mini")]
    assert "".join(found) == "今天好Hellothere"


def test_words_do_not_depend_on_the_fragments_or_the_order_of_text() -> None:
    text = "He ran 5km. Then, 20 minutes later: a rest; done!"
    assert pieces_of(text, size=3) == pieces_of(text)
    interleaved = [written for written, _ in spoken("He ran far. Then a rest.", name="mini", interleaved=True)]
    assert interleaved == ["He", "ran", "far", "Then", "a", "rest"]


def test_words_that_share_an_id_are_one() -> None:
    from services.encode.text.words import Word

    both = (Word(0, 1, 10, 11), Word(1, 2, 11, 12), Word(2, 3, 12, 13))
    assert word_ids(both, [(0, 2), (2, 3)], before=4) == ((4, 1, 10, 12), (5, 1, 12, 13))


@given(st.text(alphabet="ab Zé 09.5,?!;:\"”'()-\n。，、？好天<|>[sigh]$%& Mr. ", max_size=80), st.booleans())
def test_any_text_has_words_in_order_within_it(text: str, interleaved: bool) -> None:
    try:
        pieces = pieces_of(text, "mini", interleaved=interleaved)
    except InvalidInput:
        return
    for piece in pieces:
        for word in piece.words:
            assert 0 <= word.start < word.end <= len(text)
            assert 0 <= word.first_id < word.first_id + word.ids <= len(piece.ids)
        for word, following in pairwise(piece.words):
            assert word.first_id + word.ids <= following.first_id
