"""Chunk plans: where chunks end, and that llm and decode agree on it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.checkpoint.chunk_plan import ChunkPlan
from services.llm.stream.hops import HopPlan

LOOKAHEAD = 3
plans = st.builds(ChunkPlan, st.integers(1, 200), st.integers(1, 60))


def test_boundaries_are_multiples_after_the_first() -> None:
    plan = ChunkPlan(first_boundary=40)
    assert plan.chunks(0, 110) == [(0, 40), (40, 50), (50, 75), (75, 100), (100, 110)]
    assert [plan.boundary_at_or_after(position) for position in (0, 40, 41, 50, 51)] == [40, 40, 50, 50, 75]
    assert [plan.boundary_at_or_before(position) for position in (0, 39, 40, 49, 50, 76)] == [0, 0, 40, 40, 50, 75]
    assert [plan.chunk_end(token) for token in (0, 39, 40, 49, 50)] == [40, 40, 50, 50, 75]


def test_whole_is_one_chunk() -> None:
    assert ChunkPlan.whole().chunks(0, 7000) == [(0, 7000)]


@given(plans, st.integers(0, 300), st.integers(1, 300))
def test_chunks_tile_any_range_and_agree_with_chunk_end(plan: ChunkPlan, start: int, length: int) -> None:
    end = start + length
    chunks = plan.chunks(start, end)
    assert chunks[0][0] == start
    assert chunks[-1][1] == end
    for begin, stop in chunks:
        assert all(min(end, plan.chunk_end(token)) == stop for token in range(begin, stop))


@pytest.mark.parametrize("numbers", [(0, 25), (25, 0), (-1, 25)])
def test_bad_plans_are_refused_in_the_words_of_the_request(numbers: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="chunk and first_border of a chunk plan must be at least 1"):
        ChunkPlan(*numbers)


def test_tokens_are_sent_up_to_the_lookahead_after_each_boundary() -> None:
    plan = HopPlan(ChunkPlan(first_boundary=20, chunk_tokens=40), LOOKAHEAD)
    prompt, sent = 10, 0
    ends = []
    for _ in range(4):
        sent = plan.next(prompt, sent)
        ends.append(sent)
    assert ends == [13, 33, 73, 113]  # 20, 40, 80 and 120 absolute tokens, and 3 of lookahead


@given(plans, st.integers(0, 300))
def test_every_send_lets_decode_compute_exactly_one_more_chunk(chunks: ChunkPlan, prompt: int) -> None:
    plan, sent = HopPlan(chunks, LOOKAHEAD), 0
    for start, end in chunks.chunks(prompt, prompt + 300)[:-1]:
        before, sent = sent, plan.next(prompt, sent)
        assert prompt + sent == end + LOOKAHEAD
        assert sent - before <= plan.longest, start
