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
    if not reachable or not all(map(math.isfinite, reachable)):
        return Aligned(position, 0.0)
    best = max(range(len(reachable)), key=reachable.__getitem__)
    place = here + best
    around = [score for score in scores[max(0, place - BEHIND) : place + AHEAD] if math.isfinite(score)]
    top = max(around)
    total = sum(math.exp(score - top) for score in around)
    return Aligned(first + place, math.exp(scores[place] - top) / total)
