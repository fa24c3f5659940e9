"""The choice of hops."""

from __future__ import annotations

import pytest

from services.common.checkpoint.chunk_plan import ChunkPlan
from services.decode.engine.hops import HopPolicy


def test_first_hop_ends_at_the_first_boundary_far_enough_after_the_prompt() -> None:
    policy, plan = HopPolicy(first_min=15), ChunkPlan()
    assert policy.hop_end(plan, prompt=30, done=0, lead=0) == 50
    assert policy.hop_end(plan, prompt=36, done=0, lead=0) == 75
    assert policy.hop_end(plan, prompt=0, done=0, lead=0) == 25
    assert policy.hop_end(ChunkPlan(first_boundary=90), prompt=75, done=0, lead=0) == 90


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
