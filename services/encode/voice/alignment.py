"""Cuts prompt tokens and prompt mel to one duration (spec section 3.5) that also makes the first audio early."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FIRST_HOP_TOKENS = 15
"""The first hop of decode ends at the first chunk boundary at least this many tokens after the prompt."""
KEPT_SILENCE = 0.1
"""Seconds of silence to keep at each end of a prompt."""


@dataclass(frozen=True)
class Cut:
    """Tokens to drop at each end of a prompt."""

    start: int = 0
    end: int = 0


def align(
    tokens: NDArray[np.int32], mel: NDArray[np.float32], frames_per_token: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Cut tokens [n] and mel [m, bins] to the longest duration of whole tokens that both have."""
    length = min(len(mel) // frames_per_token, len(tokens))
    return tokens[:length], mel[: length * frames_per_token]


def cut_for_first_chunk(count: int, chunk: int, silence: tuple[float, float], token_rate: int) -> Cut:
    """Return the cut of a prompt of `count` tokens that brings the first chunk boundary nearest.

    Chunk boundaries are multiples of `chunk`, counted from the start of the prompt, so the first audio needs 15 to 39
    tokens, depending only on the prompt's length. Only silence is cut (`silence`: its seconds before and after the
    speech), because the audio must keep every word of the transcript. With too little silence nothing is cut.
    """
    spare = max(0, count % chunk - (chunk - FIRST_HOP_TOKENS))
    start, end = (max(0, int((seconds - KEPT_SILENCE) * token_rate)) for seconds in silence)
    if spare > start + end:
        return Cut()
    from_start = min(spare, start)
    return Cut(from_start, spare - from_start)
