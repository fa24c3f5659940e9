"""Spans that the rules for text must not change: special tokens of the models, and marks of our own APIs."""

from __future__ import annotations

from collections.abc import Callable

import regex

from services.encode.text import special_tokens

_TOKENS = sorted({*special_tokens.ALL, special_tokens.END_OF_TEXT}, key=len, reverse=True)
PROTECTED = regex.compile(
    r"<\|[^<>|\s]{1,40}\|>|\[pause:[^\[\]\s]{1,12}\]|" + "|".join(regex.escape(token) for token in _TOKENS)
)
"""A control token, a pause, or a special token of any family (`[laughter]`, `<strong>`, `[AA0]`)."""


def outside_protected(text: str, change: Callable[[str], str]) -> str:
    """Return `text` with `change` applied to each part between protected spans."""
    if "[" not in text and "<" not in text:
        return change(text)
    parts: list[str] = []
    end = 0
    for span in PROTECTED.finditer(text):
        parts += (change(text[end : span.start()]), span.group())
        end = span.end()
    if not parts:
        return change(text)
    parts.append(change(text[end:]))
    return "".join(parts)
