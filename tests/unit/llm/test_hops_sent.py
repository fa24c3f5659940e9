"""The tokens that the llm service sends at once, for ids that arrive one by one or several together."""

from __future__ import annotations

import pytest

from services.common.checkpoint.chunk_plan import ChunkPlan
from services.llm.engine.sequence import TokensEvent
from services.llm.stream.hops import HopPlan
from services.llm.stream.progress import Progress

PROMPT, LOOKAHEAD, TOKENS = 10, 3, 120


@pytest.mark.parametrize(
    ("plan", "at_once", "ends"),
    [
        (ChunkPlan(25, 25), 1, [18, 43, 68, 93, 118, 120]),
        (ChunkPlan(first_boundary=20, chunk_tokens=40), 1, [13, 33, 73, 113, 120]),
        (ChunkPlan(25, 25), 40, [40, 80, 120]),
        (ChunkPlan.whole(), 1, [120]),
    ],
)
def test_a_hop_completes_a_chunk_and_its_lookahead(plan: ChunkPlan, at_once: int, ends: list[int]) -> None:
    progress = Progress(HopPlan(plan, LOOKAHEAD), token_rate=25)
    hops = []
    for first in range(0, TOKENS, at_once):
        ids = tuple(range(first, first + at_once))
        last = first + at_once == TOKENS
        progress.take(TokensEvent(ids, ids, last, "stop" if last else None))
        if (hop := progress.next_hop(PROMPT)) is not None:
            hops.append(hop)
    assert [hop[-1] + 1 for hop in hops] == ends
    assert [token for hop in hops for token in hop] == list(range(TOKENS))
