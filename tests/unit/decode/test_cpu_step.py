"""The forms of the Euler step for a CPU give the mel of the plain network: any batch, hops, with and without states."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F

from services.common.checkpoint.chunk_plan import ChunkPlan
from services.decode.engine.backends import Hop
from services.decode.engine.torch_backend import TorchBackend
from services.decode.estimators.cpu_kernels import mish
from services.decode.estimators.cpu_step import JoinedEstimator
from services.decode.flow.forward_pass import Pass
from services.decode.flow.model import Flow, FlowHop
from tests.unit.decode import decode_support as support

SAME = 1e-5
BLOCKS = 40
FAMILIES = pytest.mark.parametrize("family", support.FAMILIES)


def joined(family: str, blocks: int) -> Flow:
    plain = support.mini_backend(family).flow
    made = TorchBackend(
        support.mini(family), state_bytes=blocks * plain.pool.block_bytes, make_estimator=JoinedEstimator
    )
    return made.flow


def mels(flow: Flow) -> list[torch.Tensor]:
    """Streams of three lengths, one of which begins later, in batches of hops of one and two chunks."""
    states = []
    for prompt in (30, 0, 55):
        spec = support.voice(prompt, plan=ChunkPlan(25, 25))
        tokens, mel, speaker = (torch.tensor(one) for one in (spec.prompt_tokens, spec.prompt_mel, spec.embedding))
        state = flow.open(tokens, mel, speaker, spec.plan)
        state.tokens = support.speech(70, seed=prompt)
        states.append(state)
    made = []
    for ends in ((50, 50, None), (75, 70, 75), (100, 70, 125)):
        hops = [
            FlowHop(state, end, final=end == state.available)
            for state, end in zip(states, ends, strict=True)
            if end is not None and end > state.done
        ]
        made += flow.append(hops)
    return made


@cache
def plain_mels(family: str) -> list[torch.Tensor]:
    return mels(support.mini_backend(family).flow)


@FAMILIES
@pytest.mark.parametrize("blocks", [BLOCKS, 0], ids=["kept states", "recomputed"])
def test_joined_operations_give_the_mel_of_single_ones(family: str, blocks: int) -> None:
    plain, made = plain_mels(family), mels(joined(family, blocks))
    assert [mel.shape for mel in made] == [mel.shape for mel in plain]
    assert max(float((one - other).abs().max()) for one, other in zip(made, plain, strict=True)) <= SAME


def test_mish_by_one_exponential_is_mish_for_all_numbers() -> None:
    x = torch.cat((torch.linspace(-100, 100, 4001), torch.tensor([0.0, -1e-8, 1e-8, 3e38, -3e38])))
    expected = F.mish(x.double())
    made = mish(x.clone()).double()
    assert made.isfinite().all()
    assert ((made - expected).abs() <= 1e-6 * expected.abs() + 1e-7).all()


def test_a_prompt_that_cannot_be_kept_is_not_computed_by_itself() -> None:
    """The first hop computes it anyway."""
    calls = []

    class Counted(JoinedEstimator):
        def __call__(self, x: torch.Tensor, time_terms: list[torch.Tensor], frames: Pass) -> torch.Tensor:
            calls.append(x.shape)
            return super().__call__(x, time_terms, frames)

    made = TorchBackend(support.mini(), state_bytes=0, make_estimator=Counted)
    state = made.open(support.voice(60, voice="known"))
    made.begin(state, lambda: None)
    assert not calls
    made.run([Hop(state, support.speech(43), 100, final=False)], lambda: None)
    assert len(calls) == support.EULER_STEPS
