"""The choice of hops."""

from __future__ import annotations

import pytest

from services.common.checkpoint.chunk_plan import ChunkPlan
from services.decode.engine.hops import HopPolicy


def test_first_hop_ends_at_the_first_boundary_far_enough_after_the_prompt() -> None:
    policy, plan = HopPolicy(first_frames=18), ChunkPlan()
    assert policy.hop_end(plan, prompt=30, done=0, lead=0, held_frames=12) == 50
    assert policy.hop_end(plan, prompt=36, done=0, lead=0, held_frames=12) == 75
    assert policy.hop_end(plan, prompt=0, done=0, lead=0, held_frames=12) == 25
    assert policy.hop_end(ChunkPlan(first_boundary=90), prompt=75, done=0, lead=0, held_frames=12) == 90


def test_a_vocoder_that_holds_back_less_has_a_shorter_first_hop() -> None:
    """12 tokens after the prompt give 24 frames, of which a vocoder with 10 frames of right context speaks 14."""
    policy, plan = HopPolicy(), ChunkPlan()
    ends = [policy.hop_end(plan, prompt=38, done=0, lead=0, held_frames=held) for held in (5, 10, 11, 16)]
    assert ends == [50, 50, 75, 75]


def test_later_hops_grow_with_the_lead() -> None:
    policy, plan = HopPolicy(), ChunkPlan()
    sizes = [policy.hop_end(plan, 30, 50, lead, 12) - 50 for lead in (0, 1.9, 2, 4, 8, 100)]
    assert sizes == [25, 25, 25, 50, 100, 100]


def test_a_request_never_inherits_anothers_hop() -> None:
    policy, plan = HopPolicy(), ChunkPlan()
    policy.hop_end(plan, 30, 50, lead=100, held_frames=12)
    assert policy.hop_end(plan, 30, 50, lead=0, held_frames=12) == 75


@pytest.mark.parametrize("options", [{"first_frames": 0}, {"sizes": ()}, {"sizes": (50, 25)}, {"sizes": (0,)}])
def test_bad_policies_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="hop sizes"):
        HopPolicy(**options)  # type: ignore[arg-type]
