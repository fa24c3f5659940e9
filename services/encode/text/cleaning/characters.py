"""Characters that have no sound, and characters that are another way to write plain ones."""

from __future__ import annotations

import unicodedata

import regex

_NO_PICTURES = r"[0-9#*°№℃℉🄰-🅉㈀-㏿①-ⓩ❗❓❕❔‼⁉]"
PICTURE = (
    r"[[\p{So}\p{Extended_Pictographic}\u2190-\u21ff\u2500-\u25ff\u27f0-\u27ff\u2900-\u297f]--" + _NO_PICTURES + "]"
)
"""One visible character without a sound: emoji, pictographs, arrows, box drawing, as a set for `regex` (version 1)."""
_DROPPED = regex.compile(
    r"[\p{Cc}\p{Cf}\p{Co}\p{Cn}\p{Me}\u2022\u2023\u2043\u204c\u204d\u2020\u2021\u3030\u2139"
    r"\U0000fe00-\U0000fe0f\U000e0100-\U000e01ef]",
    regex.VERSION1,
)
_PICTURE = regex.compile(PICTURE, regex.VERSION1)
_REPLACED = {
    "\t": " ",
    "\v": " ",
    "\f": " ",
    "\u0085": "\n",
    "\u2028": "\n",
    "\u2029": "\n",
    "\n": "\n",
    "\r": "\r",
    "\u2010": "-",
    "\u2011": "-",
    "\u00b4": "'",
    "\u266f": "#",  # the sharp of C♯
    "❗": "!",
    "❕": "!",
    "❓": "?",
    "❔": "?",
    "‼": "!!",
    "⁇": "??",
    "⁈": "?!",
    "⁉": "!?",
    "№": "№",
    "ⁿ": "^n",
    "™": "",
    "℠": "",
}
# Full-width marks that end a sentence or that the Chinese rules read stay; brackets and bars stay, so that no special
# token appears that the client did not write.
_KEPT_WIDE = frozenset("！（），：；？［］｛｝＜＞｜＂＇｟｠￨")
# Kinds of compatibility characters that are ways to write plain letters and digits. Superscript and subscript digits
# and fractions are not among them: without them 10² would become 102.
_WAYS_TO_WRITE = frozenset(
    ("<font>", "<circle>", "<square>", "<wide>", "<narrow>", "<isolated>", "<initial>", "<medial>", "<final>")
)
# Blocks in which the tag <compat> means the same: letters like ℡, Roman numerals, enclosed ones, radicals, ligatures.
_COMPAT = regex.compile(
    r"[\u00b5\u017f\u2100-\u2188\u2460-\u24ff\u2f00-\u2fdf\u3200-\u33ff\ufb00-\ufdff\U0001f100-\U0001f10a]"
)


def drop_unspeakable(text: str) -> str:
    """Return `text` without characters that have no sound, and with plain letters for full-width and styled ones.

    Each character is replaced on its own, by none, one or several characters, so fragments of a text may be passed
    separately. No bracket of a special token appears that `text` does not contain.
    """
    if text.isascii() and text.isprintable():
        return text
    return text.translate(_TABLE)


class _Table(dict[int, str]):
    """The replacement of every character seen so far."""

    def __missing__(self, code: int) -> str:
        value = self[code] = _replacement(chr(code))
        return value


def _replacement(char: str) -> str:
    known = _REPLACED.get(char)
    if known is not None:
        return known
    category = unicodedata.category(char)
    if category == "Cs" or char in _KEPT_WIDE:
        return char
    if category == "Zs":
        return " "
    kind, _, codes = unicodedata.decomposition(char).partition(" ")
    letter = kind == "<super>" and category == "Lm"  # 1ˢᵗ
    if kind in _WAYS_TO_WRITE or letter or (kind == "<compat>" and _COMPAT.match(char)):
        if not _DROPPED.match(char):
            return "".join(_replacement(chr(int(code, 16))) for code in codes.split())
    elif category == "No" and not kind:  # ❶, which no decomposition explains
        value = unicodedata.numeric(char)
        return str(int(value)) if value == int(value) else char
    if _DROPPED.match(char) or _PICTURE.match(char) or (category == "Sk" and not char.isascii()):
        return ""
    return char


_TABLE = _Table()
