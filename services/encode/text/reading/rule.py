"""A named rule: what is written, and how it is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass

import regex

Match = regex.Match[str]

NUMERIC = r"\d.+\-−–±~≈"
"""Characters with which a number begins, its sign included."""
_WORD = re.compile(r"[a-z]+|[#№]")


@dataclass(frozen=True)
class Rule:
    """Replaces what `pattern` finds by what `read` returns; None leaves the place to a later rule.

    Most rules have nothing to do in most sentences. `needs`, `words` and `when` find that out quickly.
    """

    name: str
    pattern: regex.Pattern[str]
    read: Callable[[Match], str | None]
    needs: frozenset[str] = frozenset()
    """The sentence must have one of these characters."""
    words: frozenset[str] = frozenset()
    """The sentence must have one of these words, in any case."""
    when: re.Pattern[str] | None = None
    """The sentence must have a match of this."""

    def __call__(self, text: str) -> str:
        return self.pattern.sub(self._replacement, text)

    def _replacement(self, match: Match) -> str:
        words = self.read(match)
        return match.group() if words is None else apart(match, words)


def rule(
    name: str,
    pattern: str,
    read: Callable[[Match], str | None],
    needs: str = "",
    *,
    starts: str = "",
    words: Iterable[str] = (),
    when: str = "",
    flags: int = 0,
) -> Rule:
    """Return a rule. `starts` are the characters with which a match begins, as the inside of a set."""
    compiled = regex.compile((f"(?=[{starts}])" if starts else "") + pattern, flags | regex.VERBOSE)
    return Rule(name, compiled, read, frozenset(needs), frozenset(words), re.compile(when) if when else None)


def apply(rules: Iterable[Rule], text: str) -> str:
    """Apply the rules in order."""
    present: Set[str] = set(text)
    words: Set[str] | None = None
    for each in rules:
        if each.needs and each.needs.isdisjoint(present):
            continue
        if each.words:
            if words is None:
                words = set(_WORD.findall(text.lower()))
            if each.words.isdisjoint(words):
                continue
        if each.when is None or each.when.search(text) is not None:
            text = each(text)
    return text


def apart(match: Match, words: str) -> str:
    """Return the words with a blank on each side on which they would touch a letter or a digit."""
    text, start, end = match.string, match.start(), match.end()
    before = " " if start and words[:1].isalnum() and text[start - 1].isalnum() else ""
    after = " " if end < len(text) and words[-1:].isalnum() and text[end].isalnum() else ""
    return f"{before}{words}{after}"
