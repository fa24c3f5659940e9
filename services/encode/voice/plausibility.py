"""Whether a transcript can belong to a recording: far too much or too little text for its length is a mix-up."""

from __future__ import annotations

import regex

from services.common.errors import InvalidInput

# Ordinary speech: letters of an alphabet, and whole syllables (Chinese, Japanese, Korean), per second. A digit is read
# as a word.
_LETTERS_PER_SECOND = 15.0
_SYLLABLES_PER_SECOND = 4.5
_DIGITS_PER_SECOND = 3.0

_SYLLABLE = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]")
_DIGIT = regex.compile(r"\p{Nd}")
_LETTER = regex.compile(r"\p{L}")

# Beyond these factors of the ordinary rate nobody speaks: a refusal. The pauses of a slow speaker are allowed for.
_FASTEST, _FAST, _SLOW, _SLOWEST = 3.0, 1.8, 0.2, 0.04


def speaking_seconds(text: str) -> float:
    """How long an ordinary speaker takes for `text`, without pauses."""
    syllables = len(_SYLLABLE.findall(text))
    letters = len(_LETTER.findall(text)) - syllables
    digits = len(_DIGIT.findall(text))
    return letters / _LETTERS_PER_SECOND + syllables / _SYLLABLES_PER_SECOND + digits / _DIGITS_PER_SECOND


def check_transcript(transcript: str, seconds: float) -> list[str]:
    """Warnings about a transcript of a prompt `seconds` long.

    Raises InvalidInput when nobody could speak it in that time, or it is next to nothing for so much sound.
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
        return ["the transcript is long for the prompt's length; check that it holds only what is spoken"]
    if rate < _SLOW:
        return ["the transcript is short for the prompt's length; check that it holds everything spoken"]
    return []
