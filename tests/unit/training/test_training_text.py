"""The sentences that the voice learns from."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from training.plan import QUICK
from training.stages import text
from training.stages.text import HELD_OUT
from training.text.select import balanced, pronounceable, words_of
from training.text.templates import Templates, number
from training.text.wordnet import PARTS, clean_sentence, read_wordnet


def wordnet(folder: Path, *glosses: str) -> Path:
    for part in PARTS:
        (folder / f"data.{part}").write_text("  1 a line of the licence\n", encoding="utf-8")
    lines = [f"00000001 03 n 01 word{i} 0 000 | {gloss}" for i, gloss in enumerate(glosses)]
    (folder / "data.noun").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_examples_become_sentences(tmp_path: Path) -> None:
    folder = wordnet(tmp_path, 'a plan; "they drew up a six-step plan"; "she  discussed the plan"; "too short"')
    assert read_wordnet(folder) == ["She discussed the plan."]


@pytest.mark.parametrize(
    "gloss", ['(obscene) a thing; "this is a fine example"', 'a thing; "they killed the old king"']
)
def test_unfit_examples_are_left_out(tmp_path: Path, gloss: str) -> None:
    assert read_wordnet(wordnet(tmp_path, gloss)) == []


def test_words_of_unfit_glosses_are_left_out_everywhere(tmp_path: Path) -> None:
    folder = wordnet(tmp_path, "a vulgar thing", 'a thing; "he said foo to the man"')
    (folder / "data.verb").write_text("00000001 03 n 01 foo 0 000 | a slur", encoding="utf-8")
    assert read_wordnet(folder) == []


@pytest.mark.parametrize(
    ("example", "clean"),
    [
        ("he took the lead", "He took the lead."),
        ("Who are you?", "Who are you?"),
        ("a (small) word here", None),
        ("in 1776 they met", None),
        ("two words", None),
    ],
)
def test_plain_sentences_only(example: str, clean: str | None) -> None:
    assert clean_sentence(example) == clean


def test_a_sentence_with_an_unknown_word_is_left_out() -> None:
    lexicon = {"a": "A", "dog": "dOg"}
    assert pronounceable(["A dog.", "A zyxt."], lambda word: lexicon.get(word.lower())) == {"A dog.": "AdOg"}


def test_every_beginning_of_the_list_is_balanced() -> None:
    """The rare phone comes more often than its share of the candidates."""
    phones = {f"Common words number {i}.": "abcd" for i in range(90)} | {f"Rare zebra {i}.": "abzz" for i in range(10)}
    chosen = balanced(phones, 20, seed=3)
    assert len(set(chosen)) == 20
    assert Counter("".join(phones[text] for text in chosen))["z"] >= 12
    assert chosen == balanced(phones, 20, seed=3)
    assert balanced(phones, 1000, seed=3).__len__() == 100


def test_the_list_mixes_examples_and_templates_and_holds_no_held_out_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = HELD_OUT.read_text(encoding="utf-8").splitlines()
    assert len(set(held_out)) == len(held_out) == 50
    examples = [f"the man saw {name} there" for name in ("birds", "ships", "trees", "stones", "boats", "clouds")]
    folder = wordnet(tmp_path, *(f'a thing; "{one}"' for one in [*examples, *(line.lower() for line in held_out)]))
    monkeypatch.setattr(text, "phones_of", lambda word: word.lower())
    order = text.choose(replace(QUICK, sentences=8), folder)
    assert len(order) == 8
    assert [one in {f"{example.capitalize()}." for example in examples} for one in order] == [
        True,
        True,
        True,
        False,
    ] * 2
    assert not set(order) & set(held_out)


def test_templates_repeat_with_their_seed_and_vary_otherwise() -> None:
    first, second, other = (Templates(seed) for seed in (5, 5, 6))
    drawn = [first.draw() for _ in range(200)]
    assert drawn == [second.draw() for _ in range(200)]
    assert drawn != [other.draw() for _ in range(200)]
    assert all(text[0].isupper() and text[-1] in ".?" and not any(c.isdigit() for c in text) for text in drawn)
    assert len({words_of(text)[0] for text in drawn}) > 15


@pytest.mark.parametrize(
    ("n", "words"),
    [(0, "zero"), (40, "forty"), (99, "ninety nine"), (305, "three hundred five"), (2001, "two thousand one")],
)
def test_numbers_in_words(n: int, words: str) -> None:
    assert number(n) == words
