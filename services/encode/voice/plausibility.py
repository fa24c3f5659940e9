"""Checks whether a transcript can belong to a recording: far too much or too little text indicates a mix-up."""

from __future__ import annotations

import regex

from services.common.errors import InvalidInput

# Ordinary speech: letters of an alphabet, and whole syllables (Chinese, Japanese, Korean), per second. A digit counts
# as a word.
_LETTERS_PER_SECOND = 15.0
_SYLLABLES_PER_SECOND = 4.5
_DIGITS_PER_SECOND = 3.0

_SYLLABLE = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]")
_DIGIT = regex.compile(r"\p{Nd}")
_LETTER = regex.compile(r"\p{L}")

# Factors of the ordinary rate. Outside the outer ones no human speaks: refused. They allow for a slow speaker's pauses.
_FASTEST, _FAST, _SLOW, _SLOWEST = 3.0, 1.8, 0.2, 0.04


def speaking_seconds(text: str) -> float:
    """Return the seconds that an ordinary speaker needs for `text`, without pauses."""
    syllables = len(_SYLLABLE.findall(text))
    letters = len(_LETTER.findall(text)) - syllables
    digits = len(_DIGIT.findall(text))
    return letters / _LETTERS_PER_SECOND + syllables / _SYLLABLES_PER_SECOND + digits / _DIGITS_PER_SECOND


def check_transcript(transcript: str, seconds: float) -> list[str]:
    """Return warnings about the transcript of a prompt of `seconds`.

    Raises InvalidInput if no human could speak it in that time, or if it is far too short for the recording.
    """
    expected = speaking_seconds(transcript)
    rate = expected / seconds
    if rate > _FASTEST:
        raise InvalidInput(
            f"transcript takes about {expected:.0f} s to speak, but the prompt audio is {seconds:.1f} s long;"
            " send the words of this recording only",
            field="transcript",
        )
    if rate < _SLOWEST:
        raise InvalidInput(
            f"transcript takes about {expected:.1f} s to speak, but the prompt audio is {seconds:.1f} s long;"
            " send all the words of the recording",
            field="transcript",
        )
    if rate > _FAST:
        return ["the transcript is long for the prompt's length; check that it has only the spoken words"]
    if rate < _SLOW:
        return ["the transcript is short for the prompt's length; check that it has all spoken words"]
    return []
