"""Phrases and how they are pronounced, from the deployment, the caller and the request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import regex

from services.encode.text.markup.items import Warnings
from services.encode.text.pronunciation.phones import Alphabet, Pronouncer
from services.encode.text.protected import outside_protected

LONGEST_PHRASE = 100
LONGEST_PRONUNCIATION = 200

_SPACED = regex.compile(r"[\p{L}\p{N}--\p{Han}\p{Hiragana}\p{Katakana}]", regex.V1)
"""Characters of scripts that separate words by blanks."""


@dataclass(frozen=True)
class Entry:
    """A phrase and its pronunciation: plain text, or phones in an alphabet."""

    phrase: str
    pronunciation: str
    alphabet: Alphabet = ""

    def problem(self, pronouncer: Pronouncer) -> tuple[str, str] | None:
        """Return the field and the reason if the entry cannot be used."""
        if not self.phrase.strip() or len(self.phrase) > LONGEST_PHRASE:
            return "phrase", f"a phrase has 1 to {LONGEST_PHRASE} characters"
        if not self.pronunciation.strip() or len(self.pronunciation) > LONGEST_PRONUNCIATION:
            return "pronunciation", f"a pronunciation has 1 to {LONGEST_PRONUNCIATION} characters"
        if not pronouncer.check(self.pronunciation, self.alphabet):
            return "pronunciation", f"{self.pronunciation!r} cannot be read as {self.alphabet}"
        return None


class Lexicon:
    """Finds phrases as whole words; of several the longest. Immutable, thread-safe.

    A phrase in lower case is found in any case, a phrase with a capital only as written.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        """Of entries with the same phrase the last one counts."""
        self._entries = {_key(entry.phrase): entry for entry in entries}
        self._pattern = _pattern(self._entries)

    def with_entries(self, entries: Iterable[Entry]) -> Lexicon:
        """Return a lexicon with further entries, which win over those of this one."""
        new = tuple(entries)
        return Lexicon((*self._entries.values(), *new)) if new else self

    def __len__(self) -> int:
        return len(self._entries)

    def applied(self, text: str, pronouncer: Pronouncer, warnings: Warnings) -> str:
        """Return `text` with every phrase replaced by text that is pronounced as its entry says."""
        pattern = self._pattern
        if pattern is None:
            return text

        def spoken(match: regex.Match[str]) -> str:
            return self._spoken(match.group(), pronouncer, warnings)

        return outside_protected(text, lambda part: pattern.sub(spoken, part))

    def _spoken(self, found: str, pronouncer: Pronouncer, warnings: Warnings) -> str:
        key = " ".join(found.split())
        entry = self._entries.get(key) or self._entries.get(key.lower()) or self._entries.get(key.casefold())
        if entry is None:  # a letter whose cases differ in length
            return found
        written = pronouncer.written(entry.pronunciation, entry.alphabet, warnings)
        return found if written is None else written


def _key(phrase: str) -> str:
    return " ".join(phrase.split())


def _pattern(phrases: Iterable[str]) -> regex.Pattern[str] | None:
    parts = [_part(phrase) for phrase in sorted(phrases, key=len, reverse=True)]
    return regex.compile("|".join(parts)) if parts else None


def _part(phrase: str) -> str:
    words = r"\s+".join(map(regex.escape, phrase.split()))
    before = r"(?<![\p{L}\p{N}])" if _SPACED.match(phrase[0]) else ""
    after = r"(?![\p{L}\p{N}])" if _SPACED.match(phrase[-1]) else ""
    return f"{before}(?i:{words}){after}" if phrase == phrase.lower() else f"{before}{words}{after}"


NO_LEXICON = Lexicon()
