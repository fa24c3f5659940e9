"""Properties of cleaning; tests/data/text_cases.yaml has the cases of single kinds."""

from __future__ import annotations

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from services.encode.text.cleaning import clean, drop_unspeakable
from services.encode.text.protected import PROTECTED

MARKS = "ab*_~`#[]()<>|!\\-=+&;:.,1 2\n😀👍🏽\u200d\ufe0f\u20e3½²₂→•—ｆ１［＜｜\u00ad\u0000"
PARTS = [
    "**",
    "*",
    "_",
    "[x]",
    "(http://a.b)",
    "&lt;",
    "&amp;",
    "&#91;",
    "[laughter]",
    "<|a|>",
    "<b>",
    "</b>",
    "| ",
    "---",
]
PARTS += [
    "\n",
    "# ",
    "- ",
    "`",
    "word",
    "5",
    " ",
    "🇩🇪",
    "½",
    "<strong>",
    "laughter]",
    "|a|&gt;",
    "你好。",
    "［laughter］",
]
texts = st.text(MARKS, max_size=60) | st.lists(st.sampled_from(PARTS)).map("".join) | st.text(max_size=40)


@settings(max_examples=300)
@given(texts)
def test_cleaning_again_changes_nothing(text: str) -> None:
    assert clean(clean(text)) == clean(text)


@settings(max_examples=300)
@given(texts)
def test_special_tokens_are_neither_lost_nor_made(text: str) -> None:
    tokens = [span.group() for span in PROTECTED.finditer(text)]
    kept = [span.group() for span in PROTECTED.finditer(clean(text))]
    task = regex.search(r"[-+*][ \t]+\[x\]|\]\(", text)  # a done task and a link look like tokens of pronunciation
    assert kept == tokens or (task and set(kept) <= set(tokens))


@given(texts, st.integers(0, 60))
def test_characters_are_dropped_alike_in_every_fragment(text: str, place: int) -> None:
    whole = drop_unspeakable(text)
    assert drop_unspeakable(text[:place]) + drop_unspeakable(text[place:]) == whole
    assert drop_unspeakable(whole) == whole
    assert set(regex.findall(r"\p{C}", whole)) <= {"\n", "\r"}


@given(
    st.lists(st.sampled_from(["it is", "snake_case", "2*3*4", "5 * 3", "a < b", "C#", "~5", "[breath]", "3.5", "U.S."]))
)
def test_plain_text_stays(words: list[str]) -> None:
    text = ", ".join(["so", *words])
    assert clean(text) == text


@pytest.mark.parametrize("gap", ["😀", " 😀 ", " → ", " ✅✅ ", "👍🏽", " ── "])
def test_numbers_on_both_sides_of_a_picture_stay_two(gap: str) -> None:
    assert clean(f"10{gap}200") == "10, 200"


def test_a_long_run_of_stars_is_cleaned_at_once() -> None:
    """A pattern that tries every division of the run takes hours."""
    assert clean(f"Visa {'*' * 4000} and more") == "Visa and more"
