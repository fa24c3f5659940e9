"""Follows the text through a sequence's attention scores: forward only, one text id or a few per speech token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

REACH = 3
"""Text ids among which the next speech token's is chosen: the present one and those after it. So a token may skip
one or two ids, such as a mark that is not spoken, and one wrong score does not lose the place."""
BEHIND, AHEAD = 4, 4
"""Text ids around the present one that share the confidence."""
LARGEST_EXPONENT = 60.0
"""Of the exponential of a score less the chosen one's; the confidence is 0 long before."""


class Aligned(NamedTuple):
    """The text id that a speech token speaks."""

    position: int
    """Index among the text ids of the request."""
    confidence: float
    """0 to 1: the part of the attention to the ids around it that this id has."""


def follow(scores: Sequence[float], first: int, position: int) -> Aligned:
    """Return the text id that the next speech token speaks, if the token before it spoke `position`.

    `scores` are the logits of the attention to the text ids from `first` on; `first` is at most `position`. The place
    is all the state there is, so an utterance continues anywhere from this one number. It never goes back. Without
    scores of `position`, and with values that are not finite, it stays and the confidence is 0.
    """
    here = position - first
    reachable = scores[here : here + REACH]
    if not reachable or not math.isfinite(sum(reachable)):
        return Aligned(position, 0.0)
    best = max(reachable)
    place = here + reachable.index(best)
    # Relative to the chosen id's; far greater ones behind it leave it no confidence.
    around = scores[max(0, place - BEHIND) : place + AHEAD]
    if math.isfinite(sum(around)) and max(around) - best <= LARGEST_EXPONENT:  # nearly always, and in fewer calls
        total = sum([math.exp(score - best) for score in around])
    else:
        total = sum([math.exp(min(score - best, LARGEST_EXPONENT)) for score in around if math.isfinite(score)])
    return Aligned(first + place, 1.0 / total)
