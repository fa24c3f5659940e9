"""Chunk borders and hop choice."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.decode.engine.chunks import ChunkPlan, HopPolicy

plans = st.builds(ChunkPlan, st.integers(1, 200), st.integers(1, 60))


def test_borders_are_multiples_after_the_first() -> None:
    plan = ChunkPlan(first_border=40)
    assert plan.chunks(0, 110) == [(0, 40), (40, 50), (50, 75), (75, 100), (100, 110)]
    assert [plan.border_at_least(position) for position in (0, 40, 41, 50, 51)] == [40, 40, 50, 50, 75]
    assert plan.chunk_end(39) == 40
    assert plan.chunk_end(40) == 50


def test_whole_is_one_chunk() -> None:
    assert ChunkPlan.whole().chunks(0, 7000) == [(0, 7000)]


@settings(deadline=None, derandomize=True)
@given(plans, st.integers(0, 300), st.integers(1, 300))
def test_chunks_tile_any_range_and_agree_with_chunk_end(plan: ChunkPlan, start: int, length: int) -> None:
    end = start + length
    chunks = plan.chunks(start, end)
    assert chunks[0][0] == start
    assert chunks[-1][1] == end
    for begin, stop in chunks:
        assert all(min(end, plan.chunk_end(token)) == stop for token in range(begin, stop))


@settings(deadline=None, derandomize=True)
@given(plans)
def test_plan_survives_serialisation(plan: ChunkPlan) -> None:
    assert ChunkPlan.from_ints(plan.to_ints()) == plan


@pytest.mark.parametrize("values", [(0, 25), (25, 0), (25,), (-1, 25), (1, 2, 3)])
def test_bad_plans_are_refused(values: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="chunk"):
        ChunkPlan.from_ints(values)


def test_first_hop_ends_at_the_first_border_far_enough_after_the_prompt() -> None:
    policy, plan = HopPolicy(first_min=15), ChunkPlan()
    assert policy.hop_end(plan, prompt=30, done=0, lead=0) == 50
    assert policy.hop_end(plan, prompt=36, done=0, lead=0) == 75
    assert policy.hop_end(plan, prompt=0, done=0, lead=0) == 25
    assert policy.hop_end(ChunkPlan(first_border=90), prompt=75, done=0, lead=0) == 90


def test_later_hops_grow_with_the_lead() -> None:
    policy, plan = HopPolicy(), ChunkPlan()
    assert [policy.hop_end(plan, 30, 50, lead) - 50 for lead in (0, 1.9, 2, 4, 8, 100)] == [25, 25, 25, 50, 100, 100]


def test_a_request_never_inherits_anothers_hop() -> None:
    policy, plan = HopPolicy(), ChunkPlan()
    policy.hop_end(plan, 30, 50, lead=100)
    assert policy.hop_end(plan, 30, 50, lead=0) == 75


@pytest.mark.parametrize("options", [{"first_min": 0}, {"sizes": ()}, {"sizes": (50, 25)}, {"sizes": (0,)}])
def test_bad_policies_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="hop sizes"):
        HopPolicy(**options)  # type: ignore[arg-type]
