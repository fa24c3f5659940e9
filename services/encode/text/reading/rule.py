"""A named rule: what is written, and how it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass

import regex

Match = regex.Match[str]


@dataclass(frozen=True)
class Rule:
    """Replaces what `pattern` finds by what `read` returns; None leaves the place to a later rule."""

    name: str
    pattern: regex.Pattern[str]
    read: Callable[[Match], str | None]
    needs: frozenset[str] = frozenset()
    """The rule is skipped for a sentence that has none of these characters; empty: it is always tried."""

    def __call__(self, text: str) -> str:
        return self.pattern.sub(self._replacement, text)

    def _replacement(self, match: Match) -> str:
        words = self.read(match)
        return match.group() if words is None else apart(match, words)


def rule(name: str, pattern: str, read: Callable[[Match], str | None], needs: str = "", flags: int = 0) -> Rule:
    return Rule(name, regex.compile(pattern, flags | regex.VERBOSE), read, frozenset(needs))


def apply(rules: Iterable[Rule], text: str) -> str:
    """Apply the rules in order."""
    present: Set[str] = set(text)
    for each in rules:
        if not each.needs or not each.needs.isdisjoint(present):
            text = each(text)
    return text


def apart(match: Match, words: str) -> str:
    """Return the words with a blank on each side on which they would touch a letter or a digit."""
    text, start, end = match.string, match.start(), match.end()
    before = " " if start and words[:1].isalnum() and text[start - 1].isalnum() else ""
    after = " " if end < len(text) and words[-1:].isalnum() and text[end].isalnum() else ""
    return f"{before}{words}{after}"
