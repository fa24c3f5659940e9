"""Example sentences of WordNet 3.0 (Princeton's licence: free use with its notice), cleaned."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

PARTS = ("noun", "verb", "adj", "adv")
_EXAMPLE = re.compile(r'"([^"]*)"')
_SENTENCE = re.compile(r"[A-Za-z][a-z']*(?:,? [A-Za-z][a-z']*)*[.?!]?")
_WORDS = (3, 14)
_CHARACTERS = 90
_REFUSED_GLOSS = re.compile(
    r"offensive|obscen|vulgar|slur|derogat|disparag|sexual|intercourse|genital|excre|torture", re.I
)
"""A gloss with one of these words marks its examples, and its own words, as unfit."""
_REFUSED_WORDS = Path(__file__).parents[1] / "data" / "refused_words.txt"


def read_wordnet(folder: Path) -> list[str]:
    """Return the clean example sentences of the files `data.*` in `folder`, sorted, each once.

    Raises FileNotFoundError if the folder lacks the files.
    """
    glosses = [gloss for part in PARTS for gloss in _glosses(folder / f"data.{part}")]
    listed = _REFUSED_WORDS.read_text(encoding="utf-8").split()
    refused = set(listed) | {
        word.lower() for words, text in glosses if _REFUSED_GLOSS.search(text) for word in words if word.isalpha()
    }
    found: set[str] = set()
    for _, text in glosses:
        if not _REFUSED_GLOSS.search(text):
            found.update(clean for example in _EXAMPLE.findall(text) if (clean := clean_sentence(example)))
    return sorted(
        text for text in found if not refused.intersection(text.lower().rstrip(".?!").replace(",", "").split())
    )


def clean_sentence(text: str) -> str | None:
    """Return `text` with a capital and a final mark, or None if it is no plain sentence of 3 to 14 words."""
    text = re.sub(r"\s+", " ", text).strip().replace(" - ", ", ")
    words = len(text.split())
    if not _WORDS[0] <= words <= _WORDS[1] or len(text) > _CHARACTERS or not _SENTENCE.fullmatch(text):
        return None
    return text[0].upper() + text[1:] + ("" if text[-1] in ".?!" else ".")


def _words(sentence: str) -> list[str]:
    return re.findall(r"[a-z']+", sentence.lower())


def _glosses(path: Path) -> Iterator[tuple[list[str], str]]:
    """The words of each synonym set, and its gloss."""
    for line in path.read_text(encoding="utf-8", errors="ignore").splitlines():
        head, bar, gloss = line.partition(" | ")
        fields = head.split()
        if bar and len(fields) > 4:
            count = int(fields[3], 16)
            yield fields[4 : 4 + 2 * count : 2], gloss
