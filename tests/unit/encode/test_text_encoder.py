"""Text in fragments: pieces do not depend on the fragments, no text is lost, bad text is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.checkpoint.model_dir import SplitConfig, open_model_dir
from services.common.errors import InvalidInput
from services.encode.text.frontend import TextFrontend
from services.encode.text.normalise import Normaliser
from services.encode.text.segment import MAX_SEGMENT, Segmenter
from services.encode.text.split import TERMINATORS, split_text, utterances
from services.encode.text.text_encoder import InterleavedEncoder, Piece, SentenceEncoder, TextEncoder

ROOT = Path(__file__).parents[3]

# All characters with a rule, and plain characters between them.
ALPHABET = "ab Zé 09.5,?!;:\"”'()-\n。，、？好天<|>[laughter] Mr. U.S. "
PHRASES = ["Hello there.", " ", "3.5, not 1,234.", "好的。", "今天天气好", "[breath]", 'He said "no."', "...", "U.S. "]
PHRASES += [
    "<speak>",
    "</speak>",
    '<break time="1s"/>',
    "[pause:1s]",
    "<p>",
    "</p>",
    "&amp;",
    "<|im_end|>",
    "<b>",
    "[sigh]",
]
PHRASES += ["<speak><s>One</s> two</speak>", '<prosody rate="slow">', "</prosody>", "[laugh]", "<strong>", "[HH][OW1]"]
texts = st.text(alphabet=ALPHABET, max_size=120) | st.lists(st.sampled_from(PHRASES)).map("".join)


@cache
def frontend(name: str = "mini") -> TextFrontend:
    if name == "tiny":
        return TextFrontend(open_model_dir(ROOT / "models" / "tiny"), Normaliser("builtin"))
    return TextFrontend(open_model_dir(ROOT / "tests" / "data" / "cosyvoice2-mini"), Normaliser("builtin"))


@cache
def one_sentence_pieces() -> TextFrontend:
    model = open_model_dir(ROOT / "tests" / "data" / "cosyvoice2-mini")
    card = dataclasses.replace(model.card, split=SplitConfig(max_length=1, min_length=0, merge_length=0))
    return TextFrontend(dataclasses.replace(model, card=card), Normaliser("builtin"))


def taken(*works: Iterator[list[Piece]]) -> list[Piece]:
    return [piece for work in works for step in work for piece in step]


def run(encoder: TextEncoder, fragments: list[str]) -> list[Piece] | str:
    """Return all pieces, or the error's text."""
    try:
        return taken(*(encoder.push(fragment) for fragment in fragments), encoder.finish())
    except InvalidInput as error:
        return error.message


def cut(text: str, places: list[int]) -> list[str]:
    offsets = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[a:b] for a, b in pairwise(offsets)]


@pytest.mark.parametrize("make", [frontend, one_sentence_pieces], ids=["official limits", "one sentence"])
@settings(max_examples=150)
@given(text=texts, places=st.lists(st.integers(0, 1000), max_size=30))
def test_fragments_give_the_pieces_of_the_whole(make: Callable[[], TextFrontend], text: str, places: list[int]) -> None:
    whole = run(SentenceEncoder(make()), [text])
    assert run(SentenceEncoder(make()), cut(text, places)) == whole
    assert run(SentenceEncoder(make()), list(text)) == whole


@settings(max_examples=200)
@given(text=texts, places=st.lists(st.integers(0, 1000), max_size=30))
def test_interleaved_ids_are_those_of_the_whole(text: str, places: list[int]) -> None:
    pieces = run(InterleavedEncoder(frontend()), cut(text, places))
    if not isinstance(pieces, list):
        assert pieces == run(InterleavedEncoder(frontend()), [text])
        return
    assert _utterances(pieces) == _utterances(run(InterleavedEncoder(frontend()), [text]))
    assert not pieces or pieces[-1].final
    if not set("<[") & set(text):  # text without marks
        assert [id_ for piece in pieces for id_ in piece.ids] == frontend().tokenizer.encode(text)
        assert "".join(piece.text for piece in pieces) == text


def _utterances(pieces: list[Piece] | str) -> list[tuple[str, tuple[int, ...], float]]:
    """Return the text, the ids and the silence of each utterance."""
    assert isinstance(pieces, list)
    found: list[tuple[str, tuple[int, ...], float]] = [("", (), 0.0)]
    for piece in pieces:
        text, ids, _ = found[-1]
        found[-1] = (text + piece.text, ids + piece.ids, piece.silence)
        if piece.final:
            found.append(("", (), 0.0))
    return found


def test_interleaved_text_is_not_held_back_beyond_the_last_word() -> None:
    encoder = InterleavedEncoder(frontend())
    assert [piece.text for piece in taken(encoder.push("one two th"))] == ["one two"]
    assert [piece.text for piece in taken(encoder.push("ree [laugh"))] == [" three"]
    assert [piece.text for piece in taken(encoder.push("ter] now."))] == [" [laughter] now"]
    assert [(piece.text, piece.final) for piece in taken(encoder.finish())] == [(".", True)]


@settings(max_examples=200)
@given(text=texts)
def test_the_splitter_keeps_every_character_in_order(text: str) -> None:
    """Except repeated marks, of which the family's rule keeps the first (spec section 2.3)."""
    for language in ("en", "zh"):
        joined = "".join(utterances(text, language))
        kept = iter(text)
        assert all(char in kept for char in joined)
        spoken = [char for char in text if char not in TERMINATORS[language]]
        assert [char for char in joined if char not in TERMINATORS[language]] == spoken


@settings(max_examples=200)
@given(text=texts, places=st.lists(st.integers(0, 1000), max_size=30))
def test_segments_tile_the_text(text: str, places: list[int]) -> None:
    segmenter = Segmenter()
    segments = [segment for fragment in cut(text, places) for segment in segmenter.push(fragment)] + segmenter.flush()
    assert "".join(segment.text for segment in segments) == text
    assert [text[segment.start : segment.end] for segment in segments] == [segment.text for segment in segments]


@settings(max_examples=100)
@given(
    st.lists(st.sampled_from(["A short one.", "Is this a somewhat longer sentence, do you think?", "No!"]), min_size=1)
)
def test_sentences_are_cut_as_the_family_cuts_the_whole(sentences: list[str]) -> None:
    text = " ".join(sentences)
    tokenizer = frontend().tokenizer
    expected = split_text(text, "en", frontend().split, lambda piece: len(tokenizer.encode(piece)))
    pieces = run(SentenceEncoder(frontend()), [text])
    assert isinstance(pieces, list)
    assert [piece.text for piece in pieces] == expected


def test_pieces_are_returned_as_soon_as_they_are_certain() -> None:
    encoder = SentenceEncoder(frontend("tiny"))
    assert taken(encoder.push("The train was late.")) == []
    (first,) = taken(encoder.push(" A"))
    assert (first.text, first.start, first.end) == ("The train was late.", 0, 19)
    assert taken(encoder.push("t 3")) == []
    assert [piece.text for piece in taken(encoder.push(". Next"))] == [" At three."]
    assert [piece.text for piece in taken(encoder.finish())] == [" Next."]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("It costs 3.50 dollars.", ["It costs three point five zero dollars."]),
        ("Dr. Jones left at 10:30. Mr. Smith stayed.", ["Doctor Jones left at ten thirty.", " Mister Smith stayed."]),
        ("About 1,234 people, or 50%.", ["About one thousand, two hundred and thirty-four people, or fifty percent."]),
        ("He lives in the U.S. now. Good", ["He lives in the U S now.", " Good."]),
        ("a line that\n  was wrapped\r\nhere", ["a line that was wrapped here."]),
        ("Red\nBlue\n\n- Green", ["Red.", " Blue.", " Green."]),
        ("The 3rd... and last!", ["The third.", " and last!"]),
        ('He said "stop." Then left', ['He said "stop."', " Then left."]),
        ("Hello. ... ?! Bye.", ["Hello.", " Bye."]),
        ("It is 12345.It works.Good.", ["It is one two three four five.", " It works.", " Good."]),
        ("5 &lt; 6 &amp; 7 &gt; 3", ["five is less than six and seven is greater than three."]),
        ("at １２：３０ or so", ["at twelve thirty or so."]),
    ],
)
def test_english_readings(text: str, pieces: list[str]) -> None:
    result = run(SentenceEncoder(frontend("tiny")), [text])
    assert isinstance(result, list)
    assert [piece.text for piece in result] == pieces


def test_chinese_rules_hold_from_the_first_chinese_sentence_on() -> None:
    result = run(SentenceEncoder(one_sentence_pieces()), ["It is 5. 今天 3.5 度。OK.好（的）"])
    assert isinstance(result, list)
    assert [piece.text for piece in result] == ["It is five.", "今天3点5度。", "OK。", "好的。"]


def test_numbers_among_chinese_marks_are_read_in_chinese() -> None:
    result = run(SentenceEncoder(frontend()), ["0086，013。"])
    assert isinstance(result, list)
    assert [piece.text for piece in result] == ["零零八六，零一三。"]
    result = run(SentenceEncoder(one_sentence_pieces()), ["Claude 0086、GPT-4、"])
    assert isinstance(result, list)
    assert [piece.text for piece in result] == ["Claude零零八六、", " GPT 4、"]
    result = run(SentenceEncoder(frontend()), ["Python 013，CUDA 0086。"])
    assert isinstance(result, list)
    assert [piece.text for piece in result] == ["Python零一三，CUDA零零八六。"]
    result = run(SentenceEncoder(frontend()), ["Room 013，floor 3。"])
    assert isinstance(result, list)
    assert [piece.text for piece in result] == ["Room zero one three，floor three。"]


def test_an_enumeration_keeps_its_marks() -> None:
    result = run(SentenceEncoder(one_sentence_pieces()), ["苹果、香蕉、"])
    assert isinstance(result, list)
    assert [piece.text for piece in result] == ["苹果、", "香蕉、"]


def test_a_text_without_marks_is_cut_at_spaces() -> None:
    words = "word " * 500
    result = run(SentenceEncoder(frontend("tiny")), [words])
    assert isinstance(result, list)
    assert all(len(piece.text) <= MAX_SEGMENT + 1 for piece in result)
    assert sum(piece.text.count("word") for piece in result) == 500
    assert all(piece.text.strip(" .word") == "" for piece in result)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "text is empty; send at least one word"),
        (" \n ", "nothing to speak"),
        ("... ?! —", "nothing to speak"),
        ("a" * 20_001, "longer than 20000 characters; send it in several requests"),
        ("今天天气好。", "speaks en"),
        ("Привет", "speaks en"),
        ("bad \ud800 text", "not valid Unicode"),
    ],
)
@pytest.mark.parametrize("kind", [SentenceEncoder, InterleavedEncoder])
def test_bad_text_is_refused_with_advice(kind: Callable[[TextFrontend], TextEncoder], text: str, hint: str) -> None:
    encoder = kind(frontend("tiny"))
    with pytest.raises(InvalidInput, match=hint) as refusal:
        taken(encoder.push(text), encoder.finish())
    assert refusal.value.field == "text"


@pytest.mark.parametrize(
    ("transcript", "hint"),
    [
        ("", "transcript is missing"),
        ("word " * 900, "4499 characters; send at most 4000"),
        ("?! ...", "has no words"),
        ("你好", "speaks en"),
        ("[mn]", "does not support"),
    ],
)
def test_bad_transcripts_are_refused(transcript: str, hint: str) -> None:
    with pytest.raises(InvalidInput, match=hint) as refusal:
        frontend("tiny").prompt_ids(transcript)
    assert refusal.value.field == "transcript"


def test_a_transcript_is_never_split() -> None:
    ids = frontend("tiny").prompt_ids(" Room 2. Hello there. ")
    assert ids.tolist() == frontend("tiny").tokenizer.encode("Room two. Hello there.")
