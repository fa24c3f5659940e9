"""K/V states of streams: shared between streams of a voice, evicted, stored in fewer bits, in a bounded pool."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.checkpoint.chunk_plan import ChunkPlan
from services.decode.engine.backends import Hop
from services.decode.engine.state import StreamSpec
from services.decode.engine.torch_backend import Precision, TorchBackend, TorchState
from services.decode.flow.kv_cache import EMPTY_STATE, KvBlockPool, KvLayout
from tests.unit.decode import decode_support as support

SAME = 1e-3
COUNT = 60


def small_pool(blocks: int = 6, dtype: torch.dtype = torch.float32) -> KvBlockPool:
    return KvBlockPool({"net": KvLayout(2, 4, 2, 8, rows=2)}, 4, blocks, dtype)


def backend(precision: Precision | None = None, blocks: int | None = None) -> TorchBackend:
    budget = None if blocks is None else blocks * support.mini_backend().flow.pool.block_bytes
    made = TorchBackend(support.mini(), precision=precision, state_bytes=budget)
    made.vocoder.context = support.mini_backend().vocoder.context
    return made


@cache
def undisturbed(prompt: int, plan: ChunkPlan) -> np.ndarray:
    return speak(support.mini_backend(), support.voice(prompt, plan=plan), [25, 50])


@cache
def sharing() -> TorchBackend:
    """A backend whose streams of one voice share the voice's prompt."""
    return backend()


def speak(
    over: TorchBackend,
    spec: StreamSpec,
    hops: list[int],
    before_hop: Callable[[TorchState], object] = lambda state: None,
    count: int = COUNT,
) -> np.ndarray:
    """All audio of `count` tokens, in hops of these sizes; the last size is repeated."""
    tokens, state = support.speech(count), over.open(spec)
    made: list[np.ndarray] = []
    prompt, end = spec.prompt_tokens.shape[0], spec.prompt_tokens.shape[0]
    while end < prompt + count:
        end = min(spec.plan.boundary_at_or_after(end + hops[min(len(made), len(hops) - 1)]), prompt + count)
        before_hop(state)
        (audio,) = over.run([Hop(state, tokens, end, final=True)], lambda: None)
        if isinstance(audio, Exception):
            raise audio
        made.append(audio.samples)
    return np.concatenate(made)


def test_blocks_are_shared_and_are_free_once_no_state_refers_to_them() -> None:
    pool = small_pool()
    first = pool.extend(EMPTY_STATE, 8)
    assert first is not None
    assert (len(first.blocks), pool.free_blocks) == (2, 4)
    longer, other = pool.extend(first, 10), pool.extend(first, 12)
    assert longer is not None
    assert other is not None
    assert longer.blocks[:2] == other.blocks[:2] == first.blocks
    assert pool.free_blocks == 2
    assert pool.extend(other, 24) is None
    del first, other
    assert pool.free_blocks == 3
    del longer
    assert pool.free_blocks == 6


def test_a_streams_blocks_are_adjacent_if_possible() -> None:
    pool = small_pool(8)
    first, second = pool.extend(EMPTY_STATE, 4), pool.extend(EMPTY_STATE, 4)
    assert first is not None
    assert second is not None
    first, second = pool.extend(first, 16), pool.extend(second, 16)
    assert first is not None
    assert second is not None
    assert [block.index for block in first.blocks] == [0, 1, 2, 3]
    assert [block.index for block in second.blocks] == [4, 5, 6, 7]


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11), (torch.float8_e4m3fn, 2**-4)]
)
def test_caches_round_to_their_precision(dtype: torch.dtype, error: float) -> None:
    cache = small_pool(dtype=dtype).caches["net"]
    values = torch.randn(2, 2, 4, 16, generator=torch.Generator().manual_seed(0)) * 1e3
    cache.write(0, 1, slice(4, 8), values)
    read = cache.read(0, 1, torch.tensor([1]), torch.float32)
    assert ((read - values).abs() <= error * values.abs() + 1e-6 * values.abs().max() + 2).all()
    assert not cache.read(0, 0, slice(0, 6), torch.float32).any()


def test_the_large_values_of_one_head_do_not_round_away_those_of_another() -> None:
    layout = KvLayout(layers=1, positions=4, heads=2, head_dim=8)
    cache = KvBlockPool({"net": layout}, 4, 1, torch.float8_e4m3fn).caches["net"]
    values = torch.randn(2, 1, 4, 2, 8, generator=torch.Generator().manual_seed(0))
    values[..., 0, :] *= 1e6
    cache.write(0, 0, slice(0, 4), values.flatten(-2))
    read = cache.read(0, 0, slice(0, 1), torch.float32).view(values.shape)
    assert (read - values)[..., 1, :].abs().max() <= 2**-4 * values[..., 1, :].abs().max()


@pytest.mark.parametrize("plan", [ChunkPlan(), ChunkPlan(50, 25), ChunkPlan(40, 25)])
@pytest.mark.parametrize("prompt", [27, 30, 60, 80])
def test_a_known_voice_starts_from_its_cached_prompt(prompt: int, plan: ChunkPlan) -> None:
    over = sharing()
    before = over.counts()
    spec = support.voice(prompt, plan=plan, voice="ada")
    shared = over.prompts.length(prompt, plan)
    assert shared % 25 == 0
    assert shared <= prompt - 3
    for hops in ([25, 50], [50, 25]):
        audio = speak(over, spec, hops)
        assert np.abs(audio - undisturbed(prompt, plan)).max() <= SAME
    counts = over.counts()
    made = (counts.prompts_computed - before.prompts_computed, counts.prompts_shared - before.prompts_shared)
    assert made == ((1, 1) if shared else (0, 0))
    gc.collect()
    assert over.flow.pool.blocks - over.flow.pool.free_blocks == shared // 25  # only the prompt is still kept
    over.evict_voice("ada")
    gc.collect()
    assert over.flow.pool.blocks == over.flow.pool.free_blocks


def test_voices_and_plans_do_not_share() -> None:
    over = backend()
    for voice in ("ada", "bob"):
        for plan in (ChunkPlan(), ChunkPlan(50, 25)):
            speak(over, support.voice(80, plan=plan, voice=voice), [50], count=25)
    assert over.counts().prompts_computed == 4
    assert over.counts().prompts_shared == 0


def test_nothing_is_kept_of_an_evicted_voice() -> None:
    over = backend()
    for voice in ("ada", "bob"):
        speak(over, support.voice(80, voice=voice), [50], count=25)
    gc.collect()
    both = over.flow.pool.blocks - over.flow.pool.free_blocks
    over.evict_voice("ada")
    gc.collect()
    assert over.flow.pool.blocks - over.flow.pool.free_blocks == both // 2
    speak(over, support.voice(80, voice="ada"), [50], count=25)
    assert over.counts().prompts_computed == 3


@settings(max_examples=6)
@given(
    prompt=st.integers(0, 70),
    boundary=st.sampled_from([25, 40, 50]),
    hops=st.lists(st.sampled_from([1, 25, 50, 100]), min_size=1, max_size=4),
    evicted=st.sets(st.integers(0, 5)),
    voice=st.sampled_from(["", "ada"]),
)
def test_eviction_changes_nothing(prompt: int, boundary: int, hops: list[int], evicted: set[int], voice: str) -> None:
    over, plan, count = support.mini_backend(), ChunkPlan(boundary, 25), 0

    def evict(state: TorchState) -> None:
        nonlocal count
        if count in evicted:
            over.evict(state)
            assert over.state_bytes(state) == 0
        count += 1

    voice = voice and f"{voice} {prompt}"
    audio = speak(over, support.voice(prompt, plan=plan, voice=voice), hops, evict)
    assert np.abs(audio - undisturbed(prompt, plan)).max() <= SAME


@pytest.mark.parametrize("blocks", [0, 1, 2, 3])
def test_a_full_pool_costs_time_and_no_audio(blocks: int) -> None:
    over = backend(blocks=blocks)
    before = over.counts().recomputed_frames
    audio = speak(over, support.voice(60, voice="ada"), [25])
    assert np.abs(audio - undisturbed(60, ChunkPlan())).max() <= SAME
    assert over.counts().kept_bytes <= blocks * over.flow.pool.block_bytes
    assert over.counts().recomputed_frames > before


ERRORS = {
    Precision(state=torch.bfloat16): 0.0005,
    Precision(state=torch.float16): 0.00005,
    Precision(state=torch.float8_e4m3fn): 0.004,
    Precision(torch.bfloat16, torch.bfloat16): 0.02,
}
"""Largest mean error of the mel (its standard deviation is about 1) of each precision on the mini checkpoint."""


@pytest.mark.parametrize("precision", ERRORS)
def test_fewer_bits_cost_a_stated_error(precision: Precision) -> None:
    exact, rounded = (flow_mel(one) for one in (support.mini_backend(), backend(precision)))
    assert exact.shape == rounded.shape
    assert (exact - rounded).abs().mean() <= ERRORS[precision]
    assert (exact - rounded).abs().max() > 0


def flow_mel(over: TorchBackend) -> torch.Tensor:
    state, mels = over.open(support.voice(60)), []
    state.flow.tokens = support.speech(COUNT)
    for end in (75, 100, 120):
        mels += over.flow.append([over._flow_hop(Hop(state, state.flow.tokens, end, final=True))])
    return torch.cat(mels)


def test_a_failed_hop_leaves_its_stream_as_it_was() -> None:
    over = backend()
    spec, tokens = support.voice(30), support.speech(COUNT)
    state = over.open(spec)
    over.run([Hop(state, tokens, 50, final=True)], lambda: None)
    kept, free = state.flow.kv_state, over.flow.pool.free_blocks

    def fail() -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        over.run([Hop(state, tokens, 75, final=True)], fail)
    gc.collect()
    assert state.flow.kv_state is kept
    assert over.flow.pool.free_blocks == free
