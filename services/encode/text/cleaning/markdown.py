"""Markdown marks removed, their text kept."""

from __future__ import annotations

import regex

_M = regex.MULTILINE
_START = r"^[ \t]*"
# Whole lines without text: rules, underlines of headings, fences with their language, rows of dashes in tables, the
# times of subtitles, and the definitions of reference links.
_EMPTY_LINES = regex.compile(
    rf"{_START}(?:(?:[-*_=~][ \t]*){{3,}}|(?:`{{3,}}|~{{3,}})[ \t]*[\w+#.-]*"
    r"|\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-*:?[ \t]*)+"
    r"|\d{1,2}:\d\d:\d\d[.,]\d{3}[ \t]+-->[ \t]+\d{1,2}:\d\d:\d\d[.,]\d{3}"
    r"|\[[^\]\n]+\]:[ \t]+<?\S+>?(?:[ \t]+(?:\"[^\"\n]*\"|'[^'\n]*'|\([^()\n]*\)))?)[ \t]*$",
    _M,
)
_LYRICS = regex.compile(rf"{_START}\[\d{{1,2}}:\d\d[.:]\d{{2,3}}\][ \t]*", _M)
_QUOTE = regex.compile(rf"{_START}(?:>(?![\d$€£])[ \t]?)+(?!=)", _M)
_HEADING = regex.compile(rf"{_START}#{{1,6}}[ \t]+(?=\S)", _M)
_HEADING_END = regex.compile(r"(?<=\S)[ \t]+#+[ \t]*$", _M)
_BULLET = regex.compile(rf"{_START}(?:[-+*\u2013\u2014](?:[ \t]+\[[ xX]\])?[ \t]+|\[[ xX]\][ \t]+)(?=\S)", _M)
_NUMBERED = regex.compile(rf"{_START}(\d{{1,3}})\)[ \t]+(?=\S)", _M)
_ROW = regex.compile(rf"{_START}\|(.*?)\|?[ \t]*$", _M)
_CELLS = regex.compile(r"[ \t]*\|[ \t]*")
_ANSWER = regex.compile(r"(?<=\|[ \t]*)([✓✔✅☑✗✘✖❌])\ufe0f?(?=[ \t]*(?:\||$))", _M)
_YES = frozenset("✓✔✅☑")
_INNER_BAR = regex.compile(r"(?<=\S)[ \t]+\|[ \t]+(?=\S)")
_TITLE = r"(?:[ \t]+(?:\"[^\"]*\"|'[^']*'))?"
_LINK = regex.compile(
    rf"!?\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\([ \t]*<?[^()\s<>]*(?:\([^()\s]*\)[^()\s<>]*)*>?{_TITLE}[ \t]*\)"
)
_TASK = regex.compile(rf"{_START}[-+*][ \t]+\[[xX]\][ \t]+", _M)
_LETTER_LINK = regex.compile(r"!?\[(\p{L}{1,4})\]\((?=[^()\s]*[/.#:])[^()\s]*\)")
_REFERENCE = regex.compile(r"!?\[([^\[\]]+)\]\[[^\[\]]*\]")
_FOOTNOTE = regex.compile(r"\[\^[^\[\]\s]+\]:?")
_ADDRESS = regex.compile(
    r"<((?:https?://|mailto:)[^\s<>]+|[^\s<>@]+@[^\s<>]+|(?:[A-Za-z\d-]+\.)+[A-Za-z]{2,}(?:/[^\s<>]*)?)>"
)
_ESCAPE = regex.compile(r"\\([!\"#$%&'()*+,./:;<=>?@\[\]^_`{|}~-])")
_STARS = regex.compile(r"\*+")
_EDGE_LINES = regex.compile(r"(?<![\p{L}\p{N}])_+(?=\S)|(?<=\S)_+(?![\p{L}\p{N}_])|(?<!\S)_+(?!\S)")
_STRIKE = regex.compile(r"~~+")
_HIGHLIGHT = regex.compile(r"==(?=[^\s=])([^=\n]+)(?<=[^\s=])==")
_KEY = regex.compile(r"(?<=\b(?i:press|pressing|hit|dial|enter|the|or)\s)\*(?=[.,;]?(?:\s\p{Ll}{2}|$))")
_QUERY = regex.compile(r"(?<=(?<![A-Za-z])(?i:select)\s)\*(?![\w*])|(?<=[A-Za-z]\()\*(?=\))")
_POWER = regex.compile(
    r"(?<=(?:(?<!\w)\w|\d|\)) )\*\* (?=\d|\(|[b-zB-HJ-Z](?![\w*]))|(?<=\w )(?<!\*\*[^*]*)\*\* (?=\d)(?![^*]*\*\*)"
)
"""Two stars that raise to a power: x ** 2, and radius ** 2 unless other stars make text bold."""
_CLOSING_STAR = regex.compile(r"[\w.,!?]\*")
_PATTERN = regex.compile(r"\.[a-z]{1,5}\d?(?![\w*])")
_HAN = regex.compile(r"\p{Han}")


def plain_text(text: str) -> str:
    """Return the text without Markdown marks. Stars between numbers and lines inside names stay."""
    text = _lines(text)
    if "\\" in text:
        text = _ESCAPE.sub(r"\1", text)
    if "`" in text:
        text = text.replace("`", "")
    if "*" in text:
        text = _STARS.sub(_star, text)
    if "_" in text:
        text = _EDGE_LINES.sub("", text)
    if "~~" in text:
        text = _STRIKE.sub("", text)
    if "==" in text:
        text = _HIGHLIGHT.sub(r"\1", text)
    return text


def without_lookalikes(text: str) -> str:
    """Replace the Markdown that looks like a token of pronunciation: `- [x] done`, `[a](https://example.com)`."""
    return _LETTER_LINK.sub(r"\1", _TASK.sub("", text)) if "[" in text else text


def with_answers(text: str) -> str:
    """Write the ticks and crosses that are alone in the cell of a table as yes and no."""
    if "|" not in text:
        return text
    yes, no = ("是", "否") if _HAN.search(text) is not None else ("yes", "no")
    return _ANSWER.sub(lambda mark: yes if mark.group(1) in _YES else no, text)


def _lines(text: str) -> str:
    """Remove the marks of lines (headings, lists, quotes, tables) and of links."""
    text = _EMPTY_LINES.sub("", text)
    if ">" in text:
        text = _QUOTE.sub("", text)
    if "#" in text:
        text = _HEADING_END.sub("", _HEADING.sub("", text))
    text = _NUMBERED.sub(r"\1. ", _BULLET.sub("", text))
    if "|" in text:
        text = _ROW.sub(_row, text)
        text = _INNER_BAR.sub(", ", text)
    if "[" in text:
        text = _LYRICS.sub("", text)
        text = _FOOTNOTE.sub("", text)
        text = _LINK.sub(r"\1", text)
        text = _REFERENCE.sub(r"\1", text)
    if "<" in text:
        text = _ADDRESS.sub(r"\1", text)
    return text


def _row(row: regex.Match[str]) -> str:
    return ", ".join(cell for cell in _CELLS.split(row.group(1).strip()) if cell)


def _star(stars: regex.Match[str]) -> str:
    """Keep a star that multiplies (2*3, a * b, 2**3) or hides a letter; remove one that marks text."""
    text = stars.string
    before, after = text[: stars.start()][-1:], text[stars.end() :][:1]
    single = len(stars.group()) == 1
    if before.isalnum() and after.isalnum():
        number = before.isdigit() or after.isdigit()
        chinese = _HAN.match(before) or _HAN.match(after)
        return stars.group() if (single or number) and not chinese else ""
    if single and _QUERY.match(text, stars.start()) is not None:
        return "*"  # SELECT *, COUNT(*)
    if single and after == "." and not before.strip() and _PATTERN.match(text, stars.end()) is not None:
        return "*" if _CLOSING_STAR.search(text, stars.end()) is None else ""  # *.py
    if single and after.isdigit() and not before.strip() and "*" not in text[stars.end() :]:
        return "*"  # *67
    if len(stars.group()) == 2 and _POWER.match(text, stars.start()) is not None:
        return "**"  # x ** 2
    if single and _KEY.match(text, stars.start()) is not None:
        return "*"  # press *
    if single and before == " " and after == " ":
        return "*" if text[: stars.start()].strip() and text[stars.end() :].strip() else ""
    return stars.group() if single and _two_operands(stars) else ""


def _two_operands(star: regex.Match[str]) -> bool:
    """Return whether numbers are on both sides, with blanks between: `2* 3`, `2 *3`."""
    before, after = star.string[: star.start()].rstrip(" ")[-1:], star.string[star.end() :].lstrip(" ")[:1]
    return before.isdigit() and after.isdigit()
