"""Pronounces phones with the checkpoint's tokens, or with a spelling that sounds similar."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import regex

from services.encode.text.markup.items import Warnings
from services.encode.text.markup.sounds import PHONES, Sounds
from services.encode.text.pronunciation import arpabet, ipa, pinyin

Alphabet = Literal["", "ipa", "arpabet", "pinyin"]

_ALPHABETS: dict[str, Alphabet] = {
    "ipa": "ipa", "x-ipa": "ipa", "arpabet": "arpabet", "x-arpabet": "arpabet", "cmu-arpabet": "arpabet",
    "x-cmu": "arpabet", "x-amazon-pinyin": "pinyin", "x-pinyin": "pinyin", "pinyin": "pinyin", "py": "pinyin",
    "sapi": "pinyin",
}  # fmt: skip


_PHONES_IN_TEXT = regex.compile(r"(?:\[[^\[\]\s]{1,5}\]){2,40}")


class Pronouncer:
    """Writes phones for one checkpoint. Thread-safe."""

    def __init__(self, sounds: Sounds) -> None:
        self._sounds = sounds

    def check(self, pronunciation: str, alphabet: Alphabet) -> bool:
        """Return whether the pronunciation can be read; plain text always can."""
        if alphabet == "":
            return True
        return _phones(pronunciation, alphabet) is not None

    def written(self, pronunciation: str, alphabet: Alphabet, warnings: Warnings) -> str | None:
        """Return text that the model pronounces so; None if the pronunciation cannot be read."""
        if alphabet == "":
            return pronunciation
        phones = _phones(pronunciation, alphabet)
        if phones is None:
            return None
        tokens = self._tokens(phones, alphabet)
        if tokens is not None:
            return tokens
        spelling = pinyin.characters(phones) if alphabet == "pinyin" else arpabet.respelled(phones)
        if spelling is not None:
            warnings.add(
                "phones_respelled", f"this model has no tokens for the phones {pronunciation!r}; it reads {spelling!r}"
            )
        return spelling

    def phoneme(self, phones: str, alphabet: str, text: str, warnings: Warnings) -> str:
        """Return the text for `<phoneme alphabet ph>text</phoneme>`."""
        known = _ALPHABETS.get(alphabet.strip().lower())
        written = None if known is None else self.written(phones, known, warnings)
        if written is None:
            warnings.add(
                "phones_ignored",
                f"<phoneme alphabet={alphabet!r} ph={phones!r}> cannot be read; send ipa, x-arpabet or pinyin."
                " The text is spoken as written",
            )
        return text if written is None else written

    def with_phones(self, text: str, warnings: Warnings) -> str:
        """Return `text` with phones in brackets (`[j][ǐ]`) respelled if the checkpoint has no tokens for them."""
        if "][" not in text:
            return text
        return _PHONES_IN_TEXT.sub(lambda match: self._respelled(match.group(), warnings), text)

    def _respelled(self, written: str, warnings: Warnings) -> str:
        tokens = tuple(written[1:-1].split("]["))
        if not PHONES.issuperset(f"[{token}]" for token in tokens) or self._sounds.speaks(f"[{one}]" for one in tokens):
            return written
        phones = arpabet.parse(" ".join(tokens)) if written.isupper() else None
        spelling = arpabet.respelled(phones) if phones is not None else pinyin.characters(pinyin.joined(tokens))
        if spelling is None:
            return written
        warnings.add("phones_respelled", f"this model has no tokens for the phones {written}; it reads {spelling!r}")
        return spelling

    def emphasis(self, *, opening: bool, warnings: Warnings) -> str:
        """Return the checkpoint's mark that begins or ends emphasis, or nothing."""
        return self._sounds.tag("<strong>" if opening else "</strong>", warnings) or ""

    def _tokens(self, phones: Iterable[str], alphabet: Alphabet) -> str | None:
        tokens = [f"[{phone}]" for phone in phones]
        if alphabet == "pinyin":
            tokens = [token for syllable in phones for token in pinyin.tokens(syllable)]
        return "".join(tokens) if self._sounds.speaks(tokens) else None


def _phones(pronunciation: str, alphabet: Alphabet) -> tuple[str, ...] | None:
    if alphabet == "ipa":
        return ipa.to_arpabet(pronunciation)
    return arpabet.parse(pronunciation) if alphabet == "arpabet" else pinyin.parse(pronunciation)
