"""Orders candidate sentences so that every beginning of the list is balanced in phones and rich in words."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

Pronounce = Callable[[str], str | None]
"""The phones of a word, one character each; None if the word is not in the lexicon."""
CANDIDATES = 8
"""Sentences compared for each place of the list."""
_WORD_WEIGHT = 0.5


def words_of(text: str) -> list[str]:
    """The words of a sentence as written, without marks."""
    return re.findall(r"[A-Za-z']+", text)


def pronounceable(texts: Iterable[str], pronounce: Pronounce) -> dict[str, str]:
    """Map each sentence of which every word is in the lexicon to its phones."""
    found = {}
    for text in texts:
        phones = [pronounce(word) for word in words_of(text)]
        if all(phone is not None for phone in phones):
            found[text] = "".join(phone or "" for phone in phones)
    return found


def balanced(phones: dict[str, str], count: int, seed: int) -> list[str]:
    """Return `count` sentences (or all): at each place the candidate with the rarest phones and words so far."""
    pool = sorted(phones)
    random.Random(seed).shuffle(pool)
    phone_counts: Counter[str] = Counter()
    word_counts: Counter[str] = Counter()
    chosen: list[str] = []
    while pool and len(chosen) < count:
        total = sum(phone_counts.values()) + 50
        candidates = [pool.pop() for _ in range(min(CANDIDATES, len(pool)))]
        best = max(candidates, key=lambda text: _rarity(text, phones[text], phone_counts, word_counts, total))
        candidates.remove(best)
        pool = candidates + pool if len(pool) < CANDIDATES else _put_back(pool, candidates)
        chosen.append(best)
        phone_counts.update(phones[best])
        word_counts.update(word.lower() for word in words_of(best))
    return chosen


def _put_back(pool: list[str], candidates: Sequence[str]) -> list[str]:
    """Return the candidates to the middle of the pool, so that later places compare others first."""
    middle = len(pool) // 2
    for offset, text in enumerate(candidates):
        pool.insert(middle + offset, text)
    return pool


def _rarity(text: str, phones: str, phone_counts: Counter[str], word_counts: Counter[str], total: int) -> float:
    words = [word.lower() for word in words_of(text)]
    rare_phones = sum(-math.log((phone_counts[phone] + 1) / total) for phone in phones) / max(1, len(phones))
    new_words = sum(-math.log(word_counts[word] + 1) for word in words) / max(1, len(words))
    return rare_phones + _WORD_WEIGHT * new_words
