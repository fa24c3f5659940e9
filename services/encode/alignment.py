"""Prompt tokens and prompt mel of one duration (spec section 3.5)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def align(
    tokens: NDArray[np.int32], mel: NDArray[np.float32], frames_per_token: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Cuts tokens [n] and mel [m, bins] to the longest duration that both fill with whole tokens."""
    length = min(len(mel) // frames_per_token, len(tokens))
    return tokens[:length], mel[: length * frames_per_token]
