"""Speaking rate: stretches the mel's time axis. Output frames have absolute indices, so that streams can be stretched.

Output frame k is at input position (k + 0.5) * speed - 0.5, clamped to the utterance (linear interpolation, spec
section 6.1); an utterance of M frames becomes int(M / speed) frames.
"""

from __future__ import annotations

import math


def position(frame: int, speed: float) -> float:
    """Position of output frame `frame` among the input frames; negative at the very start of a slowed utterance."""
    return (frame + 0.5) * speed - 0.5


def frames_ready(known: int, speed: float, last: bool) -> int:
    """Number of output frames that `known` input frames determine; with `last`, the number of all."""
    if speed == 1.0:
        return known
    whole = int(known / speed)
    if last:
        return whole
    # The frame after a position must be known; the utterance's end is not.
    return max(0, min(whole, math.ceil((known - 0.5) / speed - 0.5)))
