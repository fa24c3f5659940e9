"""Sentences end where they end: lines, abbreviations, marks without a blank, and what is never divided."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.encode.text.segment import MAX_SEGMENT, Segmenter


def sentences(*fragments: str) -> list[str]:
    segmenter = Segmenter()
    found = [span for fragment in fragments for span in segmenter.push(fragment)] + segmenter.flush()
    return [span.text for span in found]


def stripped(text: str) -> list[str]:
    return [sentence.strip() for sentence in sentences(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Red\nBlue\nGreen\nYellow", ["Red", "Blue", "Green", "Yellow"]),
        ("Milk\n3 pears\n4 plums", ["Milk", "3 pears", "4 plums"]),
        ("# Heading\n\n- **bold** item\n- `code` item", ["# Heading", "- **bold** item", "- `code` item"]),
        ("Steps\r\n1. First do this. Then that.\r\n2) Stop", ["Steps", "1. First do this.", "Then that.", "2) Stop"]),
        ("wrapped\n\nlower case after a blank line", ["wrapped", "lower case after a blank line"]),
        ("Name: John\nAge: 30", ["Name:", "John", "Age: 30"]),
        ("(a) first\n(b) second", ["(a) first", "(b) second"]),
        ("（1）打开\n（二）关闭", ["（1）打开", "（二）关闭"]),
        ("2. Two\n   a. Sub one\n   b. Sub two\nii. Next", ["2. Two", "a. Sub one", "b. Sub two", "ii. Next"]),
        ("第1章\n第2章\n\n第3章", ["第1章", "第2章", "第3章"]),
        ("| a. B | c |\n|---|---|\n| d? E | f |\nText", ["| a. B | c |", "|---|---|", "| d? E | f |", "Text"]),
        ("```\ncode here\n```\nText", ["```\ncode here".partition("\n")[0], "code here", "```", "Text"]),
    ],
)
def test_lines_of_headings_lists_and_tables_end_a_sentence(text: str, expected: list[str]) -> None:
    assert stripped(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "This paragraph was wrapped\nby an editor",
        "We met at the house of\nJohn in the afternoon",
        "This line is wrapped after a comma,\nAnna said",
        "this line is far too long to be a heading of anything, so it goes on\nLondon is next",
        "a paragraph that\nwas wrapped before\nLondon came up",
        "he lives near Mr.\nSmith",
        "- an item that goes\n  on in the next line",
        "a negative\n-5 is no item",
    ],
)
def test_a_wrapped_line_ends_nothing(text: str) -> None:
    assert sentences(text) == [text]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Perfect, 12345.Let me check.", ["Perfect, 12345.", "Let me check."]),
        ("It works.Really?Yes!Now go.", ["It works.", "Really?", "Yes!", "Now go."]),
        ("Done (at last).Then more", ["Done (at last).", "Then more"]),
        ("好!我是", ["好!", "我是"]),
        ("1、打开2、关闭", ["1、", "打开2、", "关闭"]),
    ],
)
def test_a_mark_that_touches_the_next_sentence_ends_one(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "see www.Example.Com or Example.COM",
        "open README.MD and Report.PDF",
        "the U.S.Army and J.Smith and Mr.Smith",
        "https://example.com/a.Bc?D=1.Efg now",
        "call Math.Max(3) of System.Out.Line here",
        "version 3.Beta",
        "mail John.Smith@example.com",
        "it costs 3.50, or 1.5.2",
        "600519.SH和00700.HK",
        "比分11:9、8:11、11:6",
        "101、102、103室",
    ],
)
def test_names_addresses_and_numbers_stay_whole(text: str) -> None:
    assert sentences(text) == [text]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Jones met Prof. Li, e.g. The Old", ["Dr. Jones met Prof. Li, e.g. The Old"]),
        ("See Fig. 3, No. 5, Vol. II and pp. 3 ff", ["See Fig. 3, No. 5, Vol. II and pp. 3 ff"]),
        ("No. I will not", ["No.", "I will not"]),
        ("In Jan. 2024 it was approx. 5 ft. 3 in. long", ["In Jan. 2024 it was approx. 5 ft. 3 in. long"]),
        ("It is 5 km. The rest, etc. We go", ["It is 5 km.", "The rest, etc.", "We go"]),
        ("apples, pears, etc. and so on", ["apples, pears, etc. and so on"]),
        ("Eat (nuts, etc.) daily. (He left.) She stayed", ["Eat (nuts, etc.) daily.", "(He left.)", "She stayed"]),
        ("1 tsp. salt, a 250-lb. man, Rs. 500, Rte. 66", ["1 tsp. salt, a 250-lb. man, Rs. 500, Rte. 66"]),
        ("Apple Inc. announced it. Apple Inc. The", ["Apple Inc. announced it.", "Apple Inc.", "The"]),
        ("He lives in the U.S. The U.S. Army came", ["He lives in the U.S.", "The U.S. Army came"]),
        ("J. R. R. Tolkien and J. A. Smith", ["J. R. R. Tolkien and J. A. Smith"]),
        ("at 5 p.m. Monday. At 6 a.m. They left", ["at 5 p.m. Monday.", "At 6 a.m.", "They left"]),
        ("Main St. The shop of St. John", ["Main St.", "The shop of St. John"]),
        ("He came in. She sat. Then", ["He came in.", "She sat.", "Then"]),
    ],
)
def test_abbreviations(text: str, expected: list[str]) -> None:
    assert stripped(text) == expected


@pytest.mark.parametrize(
    "unit",
    [
        "[See this. And that.](https://x.org/a. Then?)",
        "[A. Bc]",
        '<say-as interpret-as="x. Y! Zz">',
        "<!-- No. Yes. -->",
        "<https://x.org/?Yes!>",
    ],
)
def test_links_tags_and_brackets_stay_whole(unit: str) -> None:
    assert sentences(f"so {unit} it goes") == [f"so {unit} it goes"]
    long = "word " * (MAX_SEGMENT // 5 - 2)
    assert any(unit in sentence for sentence in sentences(f"{long}{unit} more"))


PARTS = [
    "\n", "\r\n", "\n\n", " ", ". ", ".", "? ", "!", "…", "。", "：", "- ", "* ", "1. ", "2) ", "# ", "| ", "```",
    ": ", ":",
    "---", "[", "]", "(", ")", "<", ">", "/", "<b>", "</b>", "<|", "|>", '"', "**", "Mr.", "U.S.", "No.", "etc.",
    "Jan.", "5 ft.", "J.", "e.g.", "The", "Then", "Army", "com", "PDF", "of", "word", "London", "Londoncome", "12",
    "3", "天", "第", "、", "a. ", "é", "http://x.y/",
]  # fmt: skip


@settings(max_examples=400)
@given(parts=st.lists(st.sampled_from(PARTS), max_size=40), places=st.lists(st.integers(0, 1000), max_size=20))
def test_sentences_do_not_depend_on_the_fragments(parts: list[str], places: list[int]) -> None:
    text = "".join(parts)
    offsets = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    whole = sentences(text)
    assert "".join(whole) == text
    assert sentences(*(text[a:b] for a, b in pairwise(offsets))) == whole
    assert sentences(*text) == whole


@pytest.mark.parametrize(
    ("text", "released"),
    [
        ("One moment please.", True),
        ("Really?! ", True),
        ('He said "stop."', True),
        ("请稍等。", True),
        ("Well…", True),
        ("No.", True),
        ("Hello there. One moment please.\n", True),
        ("It leaves at 9.", False),
        ("ask Dr.", False),
        ("in the U.S.", False),
        ("apples etc.", False),
        ("One moment", False),
        ("a list:", False),
        ("see [this.", False),
        ("...", False),
    ],
)
def test_a_pause_releases_a_sentence_that_ends_in_a_stop(text: str, released: bool) -> None:
    segmenter = Segmenter()
    spans = [*segmenter.push(text), *segmenter.pause()]
    assert "".join(span.text for span in spans).strip() == (text.strip() if released else "")
    rest = [*segmenter.push(" Then"), *segmenter.flush()]
    assert "".join(span.text for span in [*spans, *rest]) == text + " Then"
    assert rest[-1].end == len(text) + 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Am 3. Oktober war es warm.", 1),
        ("Bis 3. August bleibt es so.", 1),
        ("Die 2. Ausgabe entstand im 19. Jahrhundert.", 1),
        ("The ratio is 3 : 2 today.", 1),
        ("Am 24.12. um 18 Uhr, im 19. Jh. war es so.", 1),
        ("1,5 Mio. Menschen zahlten inkl. Steuer usw. mehr.", 1),
        ("Am 24.12. Das ist gut.", 2),
        ("Er ist 5. Das ist gut.", 2),
        ("im 25. Thanks for asking.", 2),
        ("I left at 9. Oktoberfest was over.", 2),
        ("We met on the 3. August was hot.", 2),
        ("These are 3: two of them are mine.", 2),
        ("Your PIN: 1234", 1),
        ("**Room:** 302, **Code:** `4821`, Gate: *12*", 1),
        ("Ext.: 102", 1),
        ("验证码：1234，比分： 25-20", 1),
        ("Room: B12", 2),
        ("Note: one. Price: $5", 4),
        ("备注：无", 2),
    ],
)
def test_ordinals_of_german_ratios_and_colons_before_numbers_end_no_sentence(text: str, expected: int) -> None:
    assert len(sentences(text)) == expected
    assert sentences(*text) == sentences(text)


@pytest.mark.parametrize(
    "text",
    [
        "a 65-in. TV and a 2-lb. Bag",
        "a $20/mo. plan",
        "16 fl. oz. of milk",
        "it was $3 per lb. of it",
        "The temp. dropped",
        'TBD, a.k.a. "The King"',
        "Pres. Biden and Ps. 23:1 and Cat. 4",
        "Model No. WH-1000XM5",
        "drive 20 mi. N of it",
        "under Fed. R. Civ. P. 12",
        "in Bldg. 5, see 1 Cor. 13:4",
    ],
)
def test_the_stop_of_an_abbreviation_inside_a_sentence_ends_nothing(text: str) -> None:
    assert sentences(text) == [text]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He is a temp. She left.", ["He is a temp.", "She left."]),
        ("my cat. 4 dogs", ["my cat.", "4 dogs"]),
        ("It measures 65-in. It is.", ["It measures 65-in.", "It is."]),
        ("The last order? No. Now.", ["The last order?", "No.", "Now."]),
    ],
)
def test_the_stop_of_a_word_like_an_abbreviation_ends_a_sentence(text: str, expected: list[str]) -> None:
    assert stripped(text) == expected
