"""A named rule: what is written, and how it is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import regex

Match = regex.Match[str]

NUMERIC = r"\d.+\-−–±~≈"
"""Characters with which a number begins, its sign included."""
_NEAR = re.compile(r"(?<=\d)\D\D?|\D(?=\d)")
_WORD = re.compile(r"[a-z]+|[#№]")
_KEPT = 1000
"""Sets of signs whose possible rules are kept."""


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
    near: frozenset[str] = frozenset()
    """A digit of the sentence must have one of these before it, or among the two characters after it."""
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
    near: str = "",
    when: str = "",
    flags: int = 0,
) -> Rule:
    """Return a rule. `starts` are the characters with which a match begins, as the inside of a set."""
    compiled = regex.compile((f"(?=[{starts}])" if starts else "") + pattern, flags | regex.VERBOSE)
    search = re.compile(when) if when else None
    return Rule(name, compiled, read, frozenset(needs), frozenset(words), frozenset(near), search)


_Tests = tuple[
    frozenset[str] | None, frozenset[str] | None, Callable[[str], re.Match[str] | None] | None, Callable[[str], str]
]
"""The conditions of a rule that depend on more than the signs of a sentence, and the rule."""


class RuleSet:
    """Rules in their order, and their conditions in a form that is quick to test."""

    def __init__(self, *rules: Rule) -> None:
        self.rules = rules
        self._signs = frozenset().union(*(each.needs for each in rules))
        self._possible: dict[frozenset[str], list[_Tests]] = {}
        """The rules that sentences with the same ones of `_signs` may need."""

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    def __call__(self, text: str) -> str:
        """Apply the rules in order."""
        signs = self._signs & set(text)
        possible = self._possible.get(signs)
        if possible is None:
            possible = self._keep(signs)
        beside: set[str] | None = None
        words: set[str] | None = None
        for near, any_of, found, each in possible:
            if near is not None:
                if beside is None:
                    beside = set("".join(_NEAR.findall(text)))
                if near.isdisjoint(beside):
                    continue
            if any_of is not None:
                if words is None:
                    words = set(_WORD.findall(text.lower()))
                if any_of.isdisjoint(words):
                    continue
            if found is None or found(text) is not None:
                text = each(text)
        return text

    def _keep(self, signs: frozenset[str]) -> list[_Tests]:
        tests: list[_Tests] = [
            (each.near or None, each.words or None, each.when.search if each.when else None, each)
            for each in self.rules
            if not each.needs or not each.needs.isdisjoint(signs)
        ]
        if len(self._possible) >= _KEPT:
            self._possible.clear()
        self._possible[signs] = tests
        return tests


def apart(match: Match, words: str) -> str:
    """Return the words with a blank on each side on which they would touch a letter or a digit, apart from Chinese."""
    text, start, end = match.string, match.start(), match.end()
    before = " " if start and _touch(text[start - 1], words[:1]) else ""
    after = " " if end < len(text) and _touch(words[-1:], text[end]) else ""
    return f"{before}{words}{after}"


def _touch(first: str, second: str) -> bool:
    return (
        first.isalnum() and second.isalnum() and not ("\u4e00" <= first <= "\u9fff" or "\u4e00" <= second <= "\u9fff")
    )
