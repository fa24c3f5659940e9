"""Prompt tokens and prompt mel of one duration (spec section 3.5), and of one that lets speech begin soon."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FIRST_HOP_TOKENS = 15
"""The decode stage speaks first up to the first chunk border at least so many tokens after the prompt."""
KEPT_SILENCE = 0.1
"""Seconds of silence left at either end of a prompt."""


@dataclass(frozen=True)
class Cut:
    """Tokens left out at either end of a prompt."""

    start: int = 0
    end: int = 0


def align(
    tokens: NDArray[np.int32], mel: NDArray[np.float32], frames_per_token: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Cuts tokens [n] and mel [m, bins] to the longest duration that both fill with whole tokens."""
    length = min(len(mel) // frames_per_token, len(tokens))
    return tokens[:length], mel[: length * frames_per_token]


def cut_for_first_chunk(count: int, chunk: int, silence: tuple[float, float], token_rate: int) -> Cut:
    """What a prompt of `count` tokens should lose so that the first chunk border lies as near as can be.

    Chunk borders are multiples of `chunk`, prompt included, so the first audio waits for 15 to 39 tokens, depending on
    the prompt's length alone. Only silence is cut (`silence`: seconds of it before and after the speech), since every
    word of the transcript must stay in the audio; when there is too little of it nothing is cut.
    """
    spare = max(0, count % chunk - (chunk - FIRST_HOP_TOKENS))
    start, end = (max(0, int((seconds - KEPT_SILENCE) * token_rate)) for seconds in silence)
    if spare > start + end:
        return Cut()
    from_start = min(spare, start)
    return Cut(from_start, spare - from_start)
