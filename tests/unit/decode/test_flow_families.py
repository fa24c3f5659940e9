"""Both families through the same engine: hops, batches, evictions and moves give the audio of one shot."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from services.common.checkpoint.chunk_plan import ChunkPlan
from services.common.checkpoint.flow_config import SolverConfig
from services.common.checkpoint.weights import read_weights
from services.decode.engine.backends import Hop, HopAudio
from services.decode.engine.state import StreamSpec
from services.decode.engine.torch_backend import TorchState
from services.decode.estimators.compiled import probe_mel, use_programs
from services.decode.flow.dit import DiT
from services.decode.flow.model import Flow
from services.decode.flow.solver import euler_times
from tests.unit.decode import decode_support as support

BOTH = pytest.mark.parametrize("family", support.FAMILIES)
SPEECH = [support.speech(70, seed=1), support.speech(45, seed=2)]
PLANS = st.sampled_from([ChunkPlan(), ChunkPlan(15, 25), ChunkPlan(40, 10), ChunkPlan(50, 50)])
"""Boundaries that fit the blocks of the cache, and ones that do not."""


def spec(index: int, plan: ChunkPlan, resume: bytes = b"") -> StreamSpec:
    return replace(support.voice((30, 0)[index], seed=index, resume=resume), plan=plan)


def run(family: str, hops: list[Hop]) -> list[HopAudio]:
    made = []
    for result in support.mini_backend(family).run(hops, lambda: None):
        if isinstance(result, Exception):
            raise result
        made.append(result)
    return made


@cache
def one_shot(family: str, index: int, plan: ChunkPlan) -> NDArray[np.float32]:
    state: TorchState = support.mini_backend(family).open(spec(index, plan))
    return run(family, [Hop(state, SPEECH[index], state.flow.prompt + len(SPEECH[index]), final=True)])[0].samples


@BOTH
@settings(max_examples=5)
@given(
    plans=st.tuples(PLANS, PLANS),
    turns=st.lists(st.tuples(*[st.sampled_from([0, 1, 25, 50])] * 2), min_size=1, max_size=4),
    changes=st.lists(st.sampled_from(["", "evict", "move"]), min_size=4, max_size=4),
)
def test_a_stream_in_any_hops_batches_and_places_is_its_one_shot(
    family: str, plans: tuple[ChunkPlan, ChunkPlan], turns: list[tuple[int, int]], changes: list[str]
) -> None:
    """Two streams; after a turn the first one may lose its cached state, or move to another worker by its record."""
    backend = support.mini_backend(family)
    states: list[TorchState] = [backend.open(spec(index, plan)) for index, plan in enumerate(plans)]
    heard: list[list[NDArray[np.float32]]] = [[], []]
    for turn, change in zip([*turns, (1000, 1000)], [*changes, ""], strict=False):
        hops, running = [], []
        for index, (state, count) in enumerate(zip(states, turn, strict=True)):
            longest = state.flow.prompt + len(SPEECH[index])
            done = max(state.flow.done, state.flow.prompt)
            end = min(plans[index].boundary_at_or_after(done + count), longest)
            if end > done:
                hops.append(Hop(state, SPEECH[index], end, final=True))
                running.append(index)
        for index, audio in zip(running, run(family, hops) if hops else [], strict=True):
            heard[index].append(audio.samples)
            if index == 0 and change == "evict":
                backend.evict(states[0])
            if index == 0 and change == "move" and states[0].flow.done < 100:
                states[0] = backend.open(spec(0, plans[0], resume=audio.record.to_bytes()))
    for index, plan in enumerate(plans):
        expected = one_shot(family, index, plan)
        made = np.concatenate(heard[index])
        assert made.shape == expected.shape
        assert np.abs(made - expected).max() <= support.STREAMED


@BOTH
def test_a_hop_shows_progress_at_every_layer(family: str) -> None:
    """A step over a long prompt takes a CPU longer than a worker may stand still before its streams leave it."""
    backend, beats = support.mini_backend(family), list[int]()
    state: TorchState = backend.open(spec(0, ChunkPlan()))
    backend.run([Hop(state, SPEECH[0], 50, final=False)], lambda: beats.append(1))
    layout = backend.flow.layouts()["estimator"]
    layers = layout.layers * layout.steps + len(backend.vocoder.generator.resblocks)
    assert layout.layers > 1
    assert len(beats) >= layers


def flow_with(family: str, **solver: object) -> Flow:
    """The mini's flow with other properties of its solver."""
    model = support.mini(family)
    config = replace(model.flow, solver=replace(model.flow.solver, **solver))  # type: ignore[arg-type]
    return Flow(config, read_weights(model.weights_file("flow")))


def difference(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max())


@BOTH
def test_a_checkpoint_without_guidance_computes_one_row(family: str) -> None:
    """The second row has no weight in the result, so without it everything costs half."""
    single, guided = flow_with(family, steps=4, cfg_rate=0.0), flow_with(family, steps=4, cfg_rate=1e-9)
    mel = probe_mel(single)
    assert difference(mel, probe_mel(guided)) <= 1e-5
    caches = [flow.pool.caches["estimator"].layout for flow in (single, guided)]
    assert [(layout.steps, layout.rows) for layout in caches] == [(4, 1), (4, 2)]
    use_programs(single, 1, None)
    assert difference(probe_mel(single), mel) <= 1e-5


def test_the_schedule_is_the_checkpoints() -> None:
    linear = [float(dt) for _, dt in euler_times(8, "linear")]
    assert linear == pytest.approx([0.125] * 8, abs=1e-6)
    assert sum(float(dt) for _, dt in euler_times(8, "cosine")) == pytest.approx(1, abs=1e-6)
    cosine = support.mini_backend("cosyvoice3").flow
    assert difference(probe_mel(flow_with("cosyvoice3", schedule="linear")), probe_mel(cosine)) > 0.1
    assert cosine.config.solver == replace(SolverConfig(), steps=support.EULER_STEPS)


def test_late_frames_turn_by_the_right_angle_in_low_precision() -> None:
    """Angles of frame 14999 in bfloat16 frequencies would be wrong by dozens of radians."""
    exact = cast(DiT, support.mini_backend("cosyvoice3").flow.estimator)
    rounded = copy.deepcopy(exact).to(torch.bfloat16)
    positions = torch.tensor([[0, 14999]])
    for network in (exact, rounded):
        cos, sin = network.rotary_embed(positions)
        angle = 14999 * 10000.0 ** (-torch.arange(0, 16, 2, dtype=torch.float64) / 16)
        torch.testing.assert_close(cos[0, 1].double(), angle.cos(), atol=2e-3, rtol=0)
        torch.testing.assert_close(sin[0, 1].double(), angle.sin(), atol=2e-3, rtol=0)
