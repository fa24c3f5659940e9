"""Searches the largest load that a server holds."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

from cli.bench.report import Report, Target

MOST_LOADS = 20
"""A search ends after this many loads."""


async def largest_held(
    measure: Callable[[float], Awaitable[Report]], target: Target, rate: float, within: float = 1.1
) -> Report | None:
    """Measure loads, `rate` first, until the largest one held is known to a factor of `within`; None if none is held.

    Doubles the rate while loads are held and halves it while none is, then bisects.
    """
    best: Report | None = None
    too_much = math.inf
    for _ in range(MOST_LOADS):
        one = await measure(rate)
        if target.held(one):
            best = one
        else:
            too_much = rate
        if best is None:
            rate = too_much / 2
        elif math.isinf(too_much):
            rate = 2 * best.rate
        elif too_much <= within * best.rate:
            break
        else:
            rate = math.sqrt(best.rate * too_much)
    return best
