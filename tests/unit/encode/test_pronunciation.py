"""Phrases are pronounced as the lexicon says, in phones where the checkpoint has them and in a spelling elsewhere."""

from __future__ import annotations

import json
import os
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.checkpoint.model_dir import open_model_dir
from services.common.start_error import StartError
from services.encode.text.frontend import TextFrontend
from services.encode.text.markup.items import Warnings
from services.encode.text.normalise import Normaliser
from services.encode.text.pieces import TextRequest
from services.encode.text.pronunciation import arpabet, ipa, pinyin
from services.encode.text.pronunciation.lexicon import Entry, Lexicon
from services.encode.text.pronunciation.lexicon_file import CHECK_SECONDS, LexiconFile
from services.encode.text.text_encoder import InterleavedEncoder, SentenceEncoder

ROOT = Path(__file__).parents[3]


@cache
def frontend(directory: str = "models/tiny") -> TextFrontend:
    return TextFrontend(open_model_dir(ROOT / directory), Normaliser("builtin"))


def applied(text: str, *entries: Entry, directory: str = "models/tiny") -> str:
    return Lexicon(entries).applied(text, frontend(directory).pronouncer, Warnings())


@pytest.mark.parametrize(
    ("signs", "phones"),
    [
        ("təˈmeɪtoʊ", "T AH0 M EY1 T OW0"),
        ("/t͡ʃɛk/", "CH EH1 K"),
        ("ˈwʊstər", "W UH1 S T ER0"),
        ("θɔːt", "TH AO1 T"),
        ("dʒuːs", "JH UW1 S"),
    ],
)
def test_ipa_as_arpabet(signs: str, phones: str) -> None:
    assert ipa.to_arpabet(signs) == tuple(phones.split())
    assert ipa.to_arpabet(signs + "☃") is None


def test_arpabet_is_respelled_in_syllables() -> None:
    words = {"T AH0 M EY1 T OW0": "tuh-may-toh", "S T R EY1 NG K": "strayngk", "W UH1 S T ER0": "woo-ster"}
    for phones, spelling in words.items():
        parsed = arpabet.parse(phones)
        assert parsed is not None
        assert arpabet.respelled(parsed) == spelling
    assert arpabet.parse("T QQ") is None
    assert arpabet.parse("T1 AH0") is None


@pytest.mark.parametrize(
    ("written", "syllables", "tokens", "characters"),
    [
        ("ni3 hao3", ("nǐ", "hǎo"), "[n][ǐ][h][ǎo]", "你好"),
        ("nǐ hǎo", ("nǐ", "hǎo"), "[n][ǐ][h][ǎo]", "你好"),
        ("lüe4", ("lüè",), "[l][vè]", "略"),
        ("lv4 ai4", ("lǜ", "ài"), "[l][ǜ][ài]", None),
        ("yi1er4", ("yī", "èr"), "[y][ī][èr]", "一二"),
    ],
)
def test_pinyin(written: str, syllables: tuple[str, ...], tokens: str, characters: str | None) -> None:
    assert pinyin.parse(written) == syllables
    assert "".join(token for syllable in syllables for token in pinyin.tokens(syllable)) == tokens
    if characters is not None:
        assert pinyin.characters(syllables) == characters
    assert pinyin.parse("ni9") is None
    assert pinyin.parse("hello!") is None


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("Ask Nguyen, NGUYEN or nguyen's son.", "Ask win, win or win's son."),
        ("Nguyens and 3nguyen stay", "Nguyens and 3nguyen stay"),
        ("In New  York City and new york", "In the big apple and the state"),
        ("The US and us", "The America and us"),
        ("use C++ and .NET now", "use see plus plus and dot net now"),
        ("a重庆b and 重庆市", "a崇庆b and 崇庆市"),
        ("see [laughter] nguyen", "see [laughter] win"),
    ],
)
def test_the_longest_phrase_of_whole_words_wins(text: str, spoken: str) -> None:
    entries = [
        Entry("nguyen", "win"),
        Entry("new york", "the state"),
        Entry("New York City", "the big apple"),
        Entry("US", "America"),
        Entry("C++", "see plus plus"),
        Entry(".NET", "dot net"),
        Entry("重庆", "崇庆"),
        Entry("laughter", "no token is changed"),
    ]
    assert applied(text, *entries) == spoken


def test_entries_of_a_request_win_over_those_below() -> None:
    lexicon = Lexicon([Entry("one", "base"), Entry("one two three", "long base"), Entry("four", "base four")])
    layered = lexicon.with_entries([Entry("one", "request"), Entry("one two", "two of the request")])
    pronouncer = frontend().pronouncer
    assert layered.applied("one, one two, one two three four", pronouncer, Warnings()) == (
        "request, two of the request, long base base four"
    )
    assert len(layered) == 5


def test_phones_are_tokens_or_a_spelling() -> None:
    entry = Entry("tomato", "təˈmeɪtoʊ", "ipa")
    warnings = Warnings()
    assert Lexicon([entry]).applied("a tomato", frontend().pronouncer, warnings) == "a tuh-may-toh"
    assert [warning.code for warning in warnings.take()] == ["phones_respelled"]
    speaks_phones = "tests/data/cosyvoice3-mini"
    assert applied("a tomato", entry, directory=speaks_phones) == "a [T][AH0][M][EY1][T][OW0]"
    assert applied("好", Entry("好", "hao4", "pinyin"), directory=speaks_phones) == "[h][ào]"


def test_tokens_of_phones_reach_the_model() -> None:
    model = frontend("tests/data/cosyvoice3-mini")
    lexicon = Lexicon([Entry("tomato", "T AH0 M EY1 T OW0", "arpabet")])
    encoder = SentenceEncoder(model, request=TextRequest(lexicon=lexicon))
    (piece,) = [one for step in (*encoder.push("A tomato, [j][ǐ] and option [b]."), *encoder.finish()) for one in step]
    for name in ("[T]", "[AH0]", "[M]", "[EY1]", "[OW0]", "[j]", "[ǐ]"):
        assert model.tokenizer.token_id(name) in piece.ids
    assert model.tokenizer.token_id("[b]") not in piece.ids, "a letter in brackets is text"


@pytest.mark.parametrize(
    "entry",
    [Entry("", "x"), Entry("x", " "), Entry("x" * 101, "x"), Entry("x", "y" * 201), Entry("x", "☃", "ipa")],
)
def test_entries_that_cannot_be_used_are_named(entry: Entry) -> None:
    assert entry.problem(frontend().pronouncer) is not None
    assert Entry("x", "ˈɛks", "ipa").problem(frontend().pronouncer) is None


def test_the_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    now = 0.0
    path = tmp_path / "lexicon.json"
    path.write_text(json.dumps({"nguyen": "win", "tomato": {"ipa": "təˈmeɪtoʊ"}}))
    file = LexiconFile(path, frontend().pronouncer, lambda: now)
    assert len(file.current) == 2
    version = file.version
    assert version
    assert not file.due
    path.write_text(json.dumps({"nguyen": "noo-yen"}))
    os.utime(path, ns=(1, 1))
    now += CHECK_SECONDS
    assert file.due
    file.refresh()
    assert file.current.applied("nguyen", frontend().pronouncer, Warnings()) == "noo-yen"
    assert file.version != version
    path.write_text("damaged")
    now += CHECK_SECONDS
    file.refresh()
    assert len(file.current) == 1, "the last good content stays"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "JSON object"),
        ('{"a": {"klingon": "x"}}', "ipa, arpabet or pinyin"),
        ('{"a": {"ipa": "☃"}}', "phrase 'a'"),
        ("{", "cannot be used"),
    ],
)
def test_a_file_that_cannot_be_used_prevents_the_start(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "lexicon.json"
    path.write_text(content)
    with pytest.raises(StartError, match=words):
        LexiconFile(path, frontend().pronouncer)
    with pytest.raises(StartError, match="cannot be used"):
        LexiconFile(tmp_path / "absent.json", frontend().pronouncer)


WORDS = [
    "New",
    "York",
    "City",
    "new",
    " ",
    "  ",
    "C+",
    "+",
    ".NET",
    "重",
    "庆",
    "[laughter]",
    ".",
    "a",
    "7",
    "[pause:1s]",
]


@settings(max_examples=150)
@given(words=st.lists(st.sampled_from(WORDS), max_size=20), places=st.lists(st.integers(0, 100), max_size=10))
def test_interleaved_text_has_the_same_pronunciations(words: list[str], places: list[int]) -> None:
    """However it is divided, and the same as in a text that is complete."""
    text = f"start {''.join(words)} end"
    lexicon = Lexicon(
        [
            Entry("New York City", "the apple"),
            Entry("new york", "the state"),
            Entry("C++", "see"),
            Entry("重庆", "崇庆"),
        ]
    ).with_entries([Entry(".NET", "dot net"), Entry("laughter", "no token is changed")])

    def spoken(fragments: list[str]) -> tuple[str, list[tuple[int, int]]]:
        model = frontend("tests/data/cosyvoice2-mini")
        encoder = InterleavedEncoder(model, request=TextRequest(lexicon=lexicon))
        steps = [step for fragment in fragments for step in encoder.push(fragment)]
        pieces = [piece for step in (*steps, *encoder.finish()) for piece in step]
        assert all(0 <= piece.start <= piece.end <= len(text) for piece in pieces)
        return "".join(piece.text for piece in pieces), [(one.start, one.end) for one in pieces if one.silence]

    offsets = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    whole = spoken([text])
    assert spoken([text[a:b] for a, b in pairwise(offsets)]) == spoken(list(text)) == whole
    if "[" not in text:
        assert whole[0] == lexicon.applied(text, frontend().pronouncer, Warnings())
