"""Speaking rate: the mel's time axis stretched, output frames indexed absolutely so that it works while streaming.

Output frame k lies at input position (k + 0.5) * speed - 0.5, held inside the utterance (linear interpolation,
spec section 6.1); an utterance of M frames becomes int(M / speed).
"""

from __future__ import annotations

import math


def position(frame: int, speed: float) -> float:
    """Where output frame `frame` lies among the input frames; below 0 at the very beginning of a slowed utterance."""
    return (frame + 0.5) * speed - 0.5


def frames_ready(known: int, speed: float, last: bool) -> int:
    """How many output frames `known` input frames determine; with `last`, how many there are."""
    if speed == 1.0:
        return known
    whole = int(known / speed)
    if last:
        return whole
    # The frame after a position must be known; the utterance's end is not.
    return max(0, min(whole, math.ceil((known - 0.5) / speed - 0.5)))
