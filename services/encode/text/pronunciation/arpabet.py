"""ARPAbet, the phones of English: reading it, and writing it so that a model without phones says about the same."""

from __future__ import annotations

VOWELS = {
    "AA": "ah", "AE": "a", "AH": "uh", "AO": "aw", "AW": "ow", "AY": "igh", "EH": "eh", "ER": "er", "EY": "ay",
    "IH": "ih", "IY": "ee", "OW": "oh", "OY": "oy", "UH": "oo", "UW": "oo",
}  # fmt: skip
CONSONANTS = {
    "B": "b", "CH": "ch", "D": "d", "DH": "th", "F": "f", "G": "g", "HH": "h", "JH": "j", "K": "k", "L": "l", "M": "m",
    "N": "n", "NG": "ng", "P": "p", "R": "r", "S": "s", "SH": "sh", "T": "t", "TH": "th", "V": "v", "W": "w", "Y": "y",
    "Z": "z", "ZH": "zh",
}  # fmt: skip
# Consonants that may begin a syllable together.
_ONSETS = frozenset(
    (first, second)
    for second, firsts in {
        "R": "B CH D F G K P SH T TH",
        "L": "B F G K P S",
        "W": "D G K S T",
        "Y": "B F HH K M P",
        **dict.fromkeys(("K", "M", "N", "P", "T"), "S"),
    }.items()
    for first in firsts.split()
)


def parse(text: str) -> tuple[str, ...] | None:
    """Return the phones, such as `AH0`; None if one is not ARPAbet."""
    phones = tuple(text.upper().replace("-", " ").replace(".", " ").split())
    if not phones:
        return None
    for phone in phones:
        vowel = phone.rstrip("012")
        if not (phone in CONSONANTS or (vowel in VOWELS and len(phone) - len(vowel) <= 1)):
            return None
    return phones


def respelled(phones: tuple[str, ...]) -> str:
    """Write phones as English syllables: `T AH0 M EY1 T OW0` becomes `tuh-may-toh`."""
    syllables: list[list[str]] = [[]]
    vowel_seen = False
    for phone in phones:
        if phone.rstrip("012") in VOWELS:
            if vowel_seen:
                syllables.append(_onset(syllables[-1]))
            vowel_seen = True
        syllables[-1].append(phone)
    return "-".join("".join(map(_spelling, syllable)) for syllable in syllables)


def _onset(syllable: list[str]) -> list[str]:
    """Move the consonants from the end of a syllable that begin the next one."""
    count = 0
    for phone in reversed(syllable):
        if phone.rstrip("012") in VOWELS or phone == "NG":
            break
        if count == 1 and (phone, syllable[-1]) not in _ONSETS:
            break
        count += 1
        if count == 2:
            break
    moved = syllable[len(syllable) - count :]
    del syllable[len(syllable) - count :]
    return moved


def _spelling(phone: str) -> str:
    return VOWELS.get(phone.rstrip("012")) or CONSONANTS[phone]
