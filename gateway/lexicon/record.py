"""An entry of a caller's lexicon, as it is stored."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from lighttts.v1 import lexicon_pb2

ALPHABETS: dict[str, lexicon_pb2.PhoneticAlphabet.ValueType] = {
    "": lexicon_pb2.PHONETIC_ALPHABET_UNSPECIFIED,
    "ipa": lexicon_pb2.PHONETIC_ALPHABET_IPA,
    "arpabet": lexicon_pb2.PHONETIC_ALPHABET_ARPABET,
    "pinyin": lexicon_pb2.PHONETIC_ALPHABET_PINYIN,
}
_NAMES = {number: name for name, number in ALPHABETS.items()}


@dataclass(frozen=True)
class LexiconRecord:
    """A phrase, unique among its owner's, and its pronunciation."""

    phrase: str
    """Without blanks at its ends, one blank between two words."""
    pronunciation: str
    alphabet: str = ""
    """ipa, arpabet or pinyin; empty for plain text."""
    created: float = 0.0
    """Unix time."""

    @classmethod
    def of(cls, entry: lexicon_pb2.LexiconEntry, created: float = 0.0) -> LexiconRecord:
        """Return the record of an entry, whose alphabet must be known."""
        return cls(" ".join(entry.phrase.split()), entry.pronunciation.strip(), _NAMES[entry.alphabet], created)

    def message(self) -> lexicon_pb2.LexiconEntry:
        return lexicon_pb2.LexiconEntry(
            phrase=self.phrase, pronunciation=self.pronunciation, alphabet=ALPHABETS[self.alphabet]
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> LexiconRecord:
        """Parse the output of `to_json`. Raises ValueError, KeyError or TypeError for other text."""
        record = cls(**json.loads(text))
        if record.alphabet not in ALPHABETS:
            raise ValueError(f"unknown alphabet {record.alphabet!r}")
        return record
