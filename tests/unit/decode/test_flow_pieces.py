"""Appended pieces of the flow equal one recompute, in any batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from services.common.checkpoint.chunk_plan import ChunkPlan
from services.decode.flow.model import FlowHop
from tests.parity.checks.flow import mel_after, open_stream, tokens
from tests.parity.golden import Golden
from tests.unit.decode.decode_support import FAMILIES

DATA = Path(__file__).parents[2] / "data"
EVEN, LATE = ChunkPlan(), ChunkPlan(first_boundary=40)


@pytest.fixture(scope="module", params=FAMILIES)
def golden(request: pytest.FixtureRequest) -> Iterator[Golden]:
    with Golden(DATA / f"{request.param}-mini") as folder:
        yield folder


def difference(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return float((actual - expected).abs().max())


def in_pieces(golden: Golden, plan: ChunkPlan, ends: list[int]) -> Tensor:
    """All 120 golden tokens, cut at the absolute tokens `ends` (the prompt is 30 long)."""
    state = open_stream(golden, plan)
    counts = [plan.boundary_at_or_after(end) - state.prompt for end in ends] + [120]
    return torch.cat([mel_after(golden, state, n, final=n == 120, keep=n != 120) for n in counts])


@pytest.mark.parametrize("ends", [[50], [75, 125], [100, 125], [50, 75, 100, 125]])
@pytest.mark.parametrize("plan", [EVEN, LATE], ids=["even", "late first boundary"])
def test_append_equals_recompute(golden: Golden, ends: list[int], plan: ChunkPlan) -> None:
    whole = mel_after(golden, open_stream(golden, plan), 120, final=True, keep=False)
    assert difference(in_pieces(golden, plan, ends), whole) < 1e-5


def test_mel_does_not_depend_on_the_rest_of_the_batch(golden: Golden) -> None:
    flow = golden.flow
    alone = in_pieces(golden, EVEN, [75])
    first, second = open_stream(golden, EVEN), open_stream(golden, EVEN)
    first.tokens = tokens(golden)
    second.tokens = tokens(golden)[::-1]
    ahead = flow.append([FlowHop(second, 50, final=False)])
    mels = flow.append([FlowHop(first, 75, final=False), FlowHop(second, 150, final=True)])
    rest = flow.append([FlowHop(first, 150, final=True)])
    assert difference(torch.cat((mels[0], rest[0])), alone) < 1e-5
    mate = open_stream(golden, EVEN)
    mate.tokens = tokens(golden)[::-1]
    assert difference(torch.cat((ahead[0], mels[1])), flow.append([FlowHop(mate, 150, final=True)])[0]) < 1e-5


def test_a_hop_needs_its_lookahead(golden: Golden) -> None:
    state = open_stream(golden, EVEN)
    state.tokens = tokens(golden)[:45]
    with pytest.raises(ValueError, match="cannot decode to token 75"):
        golden.flow.append([FlowHop(state, 75, final=False)])
    assert state.done == 0
    assert state.kv_state is None
