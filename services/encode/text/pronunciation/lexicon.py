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

_SPACED = r"[\p{L}\p{N}--[\p{Han}\p{Hiragana}\p{Katakana}]]"
"""Characters of scripts that separate words by blanks."""
_SPACED_RUN = regex.compile(rf"{_SPACED}+", regex.V1)


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
    """Finds phrases as whole words; of several that begin at one place the longest. Immutable, thread-safe.

    A phrase in lower case is found in any case, a phrase with a capital only as written. Phrases are looked up by their
    first word, so a lexicon of thousands costs a text no more than a small one.
    """

    def __init__(self, entries: Iterable[Entry] = (), base: Lexicon | None = None) -> None:
        """Of entries that find the same text the last one counts. `base`: further entries, which these ones precede."""
        self._base = base
        phrases = {" ".join(entry.phrase.split()): entry for entry in entries}
        self._by_start: dict[str, list[tuple[_Lazy, Entry]]] = {}
        self._size = len(phrases) + (len(base) if base is not None else 0)
        # Of equal length the last one first.
        for _, phrase in sorted(enumerate(phrases), key=lambda one: (len(one[1]), one[0]), reverse=True):
            self._by_start.setdefault(_start(phrase), []).append((_Lazy(phrase), phrases[phrase]))
        firsts = {start for start in self._starts() if _SPACED_RUN.match(start) is None}
        symbols = f"|[{regex.escape(''.join(sorted(firsts)))}]" if firsts else ""
        self._places = regex.compile(_SPACED_RUN.pattern + symbols, regex.V1) if self._size else None

    def with_entries(self, entries: Iterable[Entry]) -> Lexicon:
        """Return a lexicon with further entries, which win over those of this one."""
        new = tuple(entries)
        return Lexicon(new, self) if new else self

    def __len__(self) -> int:
        return self._size

    def applied(self, text: str, pronouncer: Pronouncer, warnings: Warnings) -> str:
        """Return `text` with every phrase replaced by text that is pronounced as its entry says."""
        if self._places is None:
            return text
        return outside_protected(text, lambda part: self._applied(part, pronouncer, warnings))

    def found(self, text: str, *, final: bool = True) -> tuple[list[tuple[int, int, Entry]], int]:
        """Return the phrases in `text` in order, and how much of the text is certain. `final`: no text follows."""
        phrases: list[tuple[int, int, Entry]] = []
        done = 0
        for place in self._places.finditer(text) if self._places is not None else ():
            start = place.start()
            if start < done:
                continue
            if place.end() == len(text) and not final:
                return phrases, start
            best, open_ = self._find(text, start, place.group().lower(), partial=not final)
            if open_:
                return phrases, start
            if best is not None:
                done, entry = best
                phrases.append((start, done, entry))
        return phrases, len(text)

    def _applied(self, text: str, pronouncer: Pronouncer, warnings: Warnings) -> str:
        parts: list[str] = []
        done = 0
        for start, end, entry in self.found(text)[0]:
            written = pronouncer.written(entry.pronunciation, entry.alphabet, warnings)
            if written is not None:
                parts += (text[done:start], written)
                done = end
        return "".join((*parts, text[done:])) if parts else text

    def _find(self, text: str, start: int, key: str, *, partial: bool) -> tuple[tuple[int, Entry] | None, bool]:
        """Return the end and the entry of the longest phrase at `start`, of equal ones that of the upper layer.

        The second value says whether later text may make another phrase, which is asked with `partial` alone.
        """
        best, open_ = self._base._find(text, start, key, partial=partial) if self._base is not None else (None, False)
        for phrase, entry in self._by_start.get(key, ()):
            match = phrase.match(text, start, partial=partial)
            if match is None:
                continue
            if match.partial or (partial and match.end() == len(text)):  # what follows decides about its border
                return None, True
            return ((match.end(), entry) if best is None or match.end() >= best[0] else best), open_
        return best, open_

    def _starts(self) -> set[str]:
        return set(self._by_start) | (self._base._starts() if self._base is not None else set())


class _Lazy:
    """A phrase, whose pattern is compiled when its first word is seen."""

    def __init__(self, phrase: str) -> None:
        self._phrase = phrase
        self._pattern: regex.Pattern[str] | None = None

    def match(self, text: str, start: int, *, partial: bool) -> regex.Match[str] | None:
        """Match the phrase at `start`; `partial`: later text may complete it."""
        if self._pattern is None:
            self._pattern = _compiled(self._phrase)
        return self._pattern.match(text, start, partial=partial)


def _start(phrase: str) -> str:
    """Return the first word in lower case, or the first character where words are not separated by blanks."""
    run = _SPACED_RUN.match(phrase)
    return run.group().lower() if run is not None else phrase[0]


def _compiled(phrase: str) -> regex.Pattern[str]:
    words = r"\s+".join(map(regex.escape, phrase.split()))
    after = rf"(?!{_SPACED})" if regex.match(_SPACED, phrase[-1], regex.V1) else ""
    flags = regex.V1 | (regex.IGNORECASE if phrase == phrase.lower() else 0)
    return regex.compile(f"{words}{after}", flags)


NO_LEXICON = Lexicon()
