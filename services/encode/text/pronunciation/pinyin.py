"""Pinyin syllables, as the tokens of an initial and a final, and as characters that are read so."""

from __future__ import annotations

from unicodedata import normalize

import regex

from services.encode.text.pronunciation.characters import CHARACTERS

_INITIALS = ("zh", "ch", "sh", *"bpmfdtnlgkhjqxrzcsyw")
_TONES = {"1": "\u0304", "2": "\u0301", "3": "\u030c", "4": "\u0300"}
_SYLLABLE = regex.compile(r"[a-zü]{1,6}")


def parse(text: str) -> tuple[str, ...] | None:
    """Return the syllables with tone marks: `ni3 hao3` and `nǐ hǎo` give `nǐ`, `hǎo`. None if one is not pinyin."""
    syllables = []
    for written in text.lower().replace("'", " ").replace("-", " ").split():
        parts = regex.findall(r"\P{Nd}+[0-5]?", written)
        if "".join(parts) != written:
            return None
        for part in parts:
            marked = _marked(part.replace("u:", "ü").replace("v", "ü"))
            if marked is None:
                return None
            syllables.append(marked)
    return tuple(syllables) or None


def tokens(syllable: str) -> tuple[str, ...]:
    """Return the tokens of a syllable in the spelling of CosyVoice3: `[n][ǐ]`, `[ài]`, `[l][vè]`."""
    initial = next((start for start in _INITIALS if syllable.startswith(start)), "")
    final = syllable[len(initial) :]
    if len(final) > 1 and _plain(final) == "üe":
        final = "v" + final[1:]
    return tuple(f"[{part}]" for part in (initial, final) if part)


def joined(tokens: tuple[str, ...]) -> tuple[str, ...]:
    """Return the syllables of tokens without their brackets: `n`, `ǐ`, `ài` give `nǐ`, `ài`."""
    syllables: list[str] = []
    initial = ""
    for token in tokens:
        if token in _INITIALS and not initial:
            initial = token
        else:
            syllables.append(initial + (token.replace("v", "ü", 1) if initial else token))
            initial = ""
    return (*syllables, initial) if initial else tuple(syllables)


def characters(syllables: tuple[str, ...]) -> str | None:
    """Return one common character for each syllable; None if a syllable has none."""
    found = [CHARACTERS.get(syllable) for syllable in syllables]
    return None if None in found else "".join(char for char in found if char is not None)


def _plain(syllable: str) -> str:
    kept = (char for char in normalize("NFD", syllable) if char not in _TONES.values())
    return normalize("NFC", "".join(kept))


def _marked(written: str) -> str | None:
    """Return a syllable with a tone mark in place of its digit."""
    plain, tone = (written[:-1], written[-1]) if written[-1].isdigit() else (written, "")
    plain = normalize("NFC", plain)
    if _SYLLABLE.fullmatch(_plain(plain)) is None or not set(_plain(plain)) & set("aeioumnü"):
        return None
    if tone not in _TONES or plain != _plain(plain):
        return plain
    vowels = [place for place, char in enumerate(plain) if char in "aeiouü"]
    if not vowels:
        return None
    place = next((p for p in vowels if plain[p] in "ae"), plain.find("o") if "ou" in plain else vowels[-1])
    return normalize("NFC", plain[: place + 1] + _TONES[tone] + plain[place + 1 :])
