"""Cleans one sentence. A sentence of a stream may hold a part of a construct only, such as the first half of bold text,
so the rules work on single marks where a parser of whole documents would need both ends."""

from __future__ import annotations

import re
from unicodedata import normalize

import regex

from services.encode.text.cleaning.characters import PICTURE, drop_unspeakable
from services.encode.text.cleaning.latex import plain_formulas
from services.encode.text.cleaning.markdown import plain_text, with_answers, without_lookalikes
from services.encode.text.cleaning.markup import decoded, without_tags
from services.encode.text.protected import PROTECTED, outside_protected

# Most sentences have no character of interest. The marks that begin a Markdown line are of interest there only.
# Each search begins with one of a few characters, which makes it several times faster than all in one pattern.
_UNUSUAL = re.compile(r"""[^A-Za-z0-9 ,.;:!?'"()%$/\n+#-]""")
_LINE = r"[ ]{0,3}(?:[+-] |\d+\) |(?:- ?){3})"
_LINE_MARK = re.compile(_LINE)
_OF_INTEREST = re.compile(rf"#(?![0-9])| [:;]['-]?[)(DPp]|^[:;]['-]?[)(DPp]|\n{_LINE}|\$[A-Za-z][^$]{{0,40}}\$")
_CHINESE = re.compile(r"[\u4e00-\u9fff。，！？；：、“”‘’《》（）A-Za-z0-9 ,.;:!?'\"%]+")

_HIDDEN_DIGITS = regex.compile(
    r"(?<![\w*•●])(?:(?:[*•●]{4,}+[ -]?+){1,4}+|(?:\(?(?:[*•●]{2,4}|[xX]{2,4})\)?[ -]){2}"
    r"|[xX]{4}(?:[ -]?[xX]{4}){0,3}[ -]|(?:\.{3}|…)(?=[0-9]{4}(?![0-9])))"
    r"([0-9]{2,6})(?![\w*•●]|[.,:/-][0-9])"
)
"""The last digits of a number whose other digits are hidden: ****4242."""
_CHANGE = regex.compile(r"([▲▼△▽🔺🔻↑↓])\ufe0f?[ ]?(?=[$€£¥₹]?[0-9])")
"""A triangle before a number, which rose or fell by it."""
_CITATION = regex.compile(r"【[^【】]*†[^【】]*】")
# Numbers in one character: circled, in brackets, with a full stop; also days, hours and months.
_CIRCLED = (
    r"[\u2460-\u249b\u24ea-\u24ff\u2776-\u2793\u3248-\u324f\u3251-\u325f\u32b1-\u32bf\u32c0-\u32cb\u3358-\u3370"
    r"\u33e0-\u33fe\U0001f100-\U0001f10c]"
)
_FRACTIONS = r"[\u00bc-\u00be\u2150-\u215e\u2189]"
_BETWEEN_CIRCLED = regex.compile(
    rf"(?<={_CIRCLED})\s*(?=[0-9]|{_CIRCLED}|{_FRACTIONS})|(?<=[0-9])\s*(?={_CIRCLED})"
    rf"|(?<={_FRACTIONS})\s*(?={_CIRCLED})"
)
_TWO_KEYCAPS = regex.compile(r"([0-9])\ufe0f?\u20e3(?=[0-9])")
_KEYCAP = regex.compile(r"[#*]\ufe0f?\u20e3")
_MARKS_OF_PICTURES = r"[\ufe0e\ufe0f\u200d\u20e3\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]"
_PICTURES = regex.compile(rf"(?:{PICTURE}{_MARKS_OF_PICTURES}*)(?:\s*(?:{PICTURE}|{_MARKS_OF_PICTURES}))*", regex.V1)
_ARROW = regex.compile(r"[\u2190-\u21ff\u27f0-\u27ff\u2900-\u297f\u279c\u27a1\u2b05-\u2b07]", regex.V1)
_TYPED_ARROW = regex.compile(r"(?:(\S)[ \t]+|^)<?(?:--?>|==?>|(?<=<)--?)(?=[ \t]+\S)", regex.MULTILINE)
_MENU = regex.compile(
    r"(?<!\p{L})(?:\p{Lu}\p{L}{2,}[\"”’']?[ \t]+>[ \t]+[\"“‘']?\p{Lu}\p{L}{2,}"
    r"|\p{Han}{2,}[ \t]+>[ \t]+\p{Han}{2,}[ \t]+>)"
)
_MENU_SIGN = regex.compile(r"[ \t]+>(?=[ \t]+[\"“‘'(]?\p{L})")
"""The signs between the items of a menu: Settings > General. `x > 5` and `revenue > cost` compare."""
_INNER_BULLET = regex.compile(r"(?<=[^\s]) +[\u2022\u2023\u25cf\u25aa] +(?=[^\s])")
_FRACTION = regex.compile(r"(\d?)([\u00bc-\u00be\u2150-\u215e\u2189])(\d|(?=[A-Za-z]))?")
_TWO_FRACTIONS = regex.compile(rf"(?<={_FRACTIONS})\s*(?={_FRACTIONS})")
_FRACTION_SLASH = regex.compile(r"(?<=\d)\u2044(?=\d)")
_LOW_DIGITS = regex.compile(r"(?<=(\d)?)[\u2080-\u2089]+(?=(\d)?)")
_HIGH_DIGITS = regex.compile(r"(?<=[⁰¹²³⁴-⁹])(?=[0-9])")
_WIDE_COLON = regex.compile(r"(?<=[0-9])(?<!(?:[A-Za-z]|[图表式例题问答注录案])[0-9]{1,2})：(?=[0-9])")
_WIDE_COMMA = regex.compile(r"(?<=[0-9])，(?=[0-9]{3}(?![0-9]))(?<=[\uff10-\uff19]，)")
_HAN = regex.compile(r"\p{Han}")
_EMOTICON = regex.compile(
    r"(?<!\S)(?:[:;]['’]?-?[)(DPp]|=[)D]|(?<=\b(?:you|u|ya|thanks|thx|ily|much|guys|everyone|night|love|so|xoxo|hugs|bye|babe|bestie|friends|family|cute|omg|4?ever)\s|[!.]\s|<3\s)<3+)"
    r"(?=$|[\s.,!?])"
)
_NUMBERED_ITEM = regex.compile(
    r"(?:(?<=^|[\s。；，：、！？;,:!?])|(?<=(?:^|[\s。；，：、！？;,:!?])[①-⑳]\p{Han}[^。]{0,80}\p{Han})(?<![第图式表步题注例点条项见由与和或到]))"
    r"[①-⑳]\s?(?=\p{Han})"
)
"""The number of an item in a Chinese sentence. One inside a phrase stays: 第①步, 如图①所示."""
_BLANKS = regex.compile(r"[ \t]{2,}")
_BLANK_LINES = regex.compile(r"[ \t]*\n[ \t]*(?:\n[ \t]*)*")
_LOOSE_MARK = regex.compile(r"(?<=\S) +(?=[.,](?:\s|$))")


def clean(sentence: str) -> str:
    """Return the sentence without what cannot be pronounced.

    It drops emoji, drawings, control and format characters, Markdown marks and HTML tags, and keeps their text;
    decodes HTML entities; writes full-width and styled letters, fractions and index digits plainly. Superscripts stay,
    because they are read as powers. Special tokens stay (`PROTECTED`), and none appears that `sentence` does not
    contain. `clean(clean(sentence)) == clean(sentence)`.
    """
    if not _is_of_interest(sentence) or (_CHINESE.fullmatch(sentence) is not None and " :" not in sentence):
        return sentence
    core = sentence.strip()
    start = sentence.index(core)
    while (cleaned := outside_protected(without_lookalikes(core), _cleaned).strip()) != core:
        core = cleaned
    return f"{sentence[:start]}{core}{sentence[len(sentence.rstrip()) :]}" if core else ""


def _is_of_interest(sentence: str) -> bool:
    return (
        _UNUSUAL.search(sentence) is not None
        or _LINE_MARK.match(sentence) is not None
        or _OF_INTEREST.search(sentence) is not None
        or "..." in sentence
        or "XX" in sentence
        or "xx" in sentence
    )


def _cleaned(part: str) -> str:
    text = _HIDDEN_DIGITS.sub(lambda digits: " ".join(digits.group(1)), part)
    if not text.isascii():
        text = _plain_characters(_CHANGE.sub(lambda sign: "+" if sign.group(1) in "▲△🔺↑" else "\u2212", text))
    text = drop_unspeakable(text)
    text = without_tags(decoded(text))
    text = plain_text(plain_formulas(_EMOTICON.sub("", text)))
    if ">" in text or "<-" in text:
        text = _arrows(text)
    text = _BLANKS.sub(" ", text)
    if "\n" in text:
        text = _BLANK_LINES.sub("\n", text)
    text = _LOOSE_MARK.sub("", text)
    if PROTECTED.search(text) is not None:  # written as entities, or across a mark that was removed
        text = PROTECTED.sub(lambda span: span.group().strip("<>[]|"), text)
    return text


def _plain_characters(text: str) -> str:
    """Replace the characters whose replacement depends on their neighbours."""
    text = _CITATION.sub("", _KEYCAP.sub("", text))
    text = _TWO_KEYCAPS.sub(r"\1 ", text)
    text = _NUMBERED_ITEM.sub(_item, text)
    text = _BETWEEN_CIRCLED.sub(", ", text)
    text = _INNER_BULLET.sub(", ", with_answers(text))
    text = _PICTURES.sub(_gap, text)
    text = _HIGH_DIGITS.sub(", ", written_fractions(text))
    text = _LOW_DIGITS.sub(lambda low: _plain_low(low), text)
    text = _WIDE_COMMA.sub(",", text)
    return _WIDE_COLON.sub(":", drop_unspeakable(text))


def _plain_low(low: regex.Match[str]) -> str:
    """Write index digits plainly, apart from digits on both sides: 1₂3 is three numbers."""
    return f"{', ' if low.group(1) else ''}{normalize('NFKC', low.group())}{', ' if low.group(2) else ''}"


def _item(number: regex.Match[str]) -> str:
    """Write ①打开 as 1、打开."""
    before = number.string[: number.start()]
    comma = "，" if before and _HAN.match(before[-1]) is not None else ""
    return f"{comma}{ord(number.group()[0]) - ord('①') + 1}、"


def written_fractions(text: str) -> str:
    """Write ½ as 1/2, apart from a whole number before it."""
    text = _FRACTION.sub(_written_fraction, _TWO_FRACTIONS.sub(", ", text))
    return _FRACTION_SLASH.sub("/", text)


def _gap(pictures: regex.Match[str]) -> str:
    """Return what separates the words or numbers on both sides of pictures: 10 🎈 200 must not become 10 200."""
    text = pictures.string
    before, after = text[: pictures.start()].rstrip(" "), text[pictures.end() :].lstrip(" ")
    if not before or not after:
        return ""
    numbers = before[-1].isdigit() and after[0].isdigit()
    arrow = _ARROW.search(pictures.group()) is not None
    if numbers or (arrow and (before[-1].isalnum() or before[-1] in "\"'`)*") and not after[0].isspace()):
        return ", "
    return " " if before[-1].isalnum() and after[0].isalnum() else ""


def _arrows(text: str) -> str:
    """Write a comma for arrows of ASCII (`A -> B`) and for the signs between the items of a menu."""
    text = _TYPED_ARROW.sub(_arrow, text)
    return _MENU_SIGN.sub(",", text) if " > " in text and _MENU.search(text) is not None else text


def _arrow(arrow: regex.Match[str]) -> str:
    before = arrow.group(1) or ""
    return f"{before}," if before and (before.isalnum() or before in "\"'`)*") else before


def _written_fraction(match: regex.Match[str]) -> str:
    before, char, after = match.groups()  # ½mv²: a letter follows
    fraction = normalize("NFKC", char).replace("\u2044", "/")
    fraction += "1" if fraction.endswith("/") else ""
    return f"{before}{' ' if before else ''}{fraction}{' ' if after == '' else ', ' if after else ''}{after or ''}"
