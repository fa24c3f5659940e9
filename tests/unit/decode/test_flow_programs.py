"""Programs of fixed shape equal plain steps; one that cannot be recorded, or gives another result, is not used."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from services.common.checkpoint.chunk_plan import ChunkPlan
from services.decode.engine.backends import Hop, HopAudio
from services.decode.engine.torch_backend import Precision, TorchBackend
from services.decode.estimators import compiled
from services.decode.estimators.compiled import LARGEST_DIFFERENCE, compile_estimator, probe_mel, use_programs
from services.decode.estimators.fused import fused_network
from services.decode.flow.block_attention import Batch, PlainAttention
from services.decode.flow.estimator import EstimatorNetwork
from services.decode.flow.kv_cache import KvCache
from services.decode.flow.model import Flow, FlowHop, FlowState
from services.decode.flow.programs import Programs
from tests.unit.decode import decode_support as support

SAME = 1e-5
BLOCKS = 100
STREAMS = 3


BOTH = pytest.mark.parametrize("family", support.FAMILIES)


def backend(precision: Precision | None = None, family: str = "cosyvoice2") -> TorchBackend:
    warmed = support.mini_backend(family)
    made = TorchBackend(support.mini(family), precision=precision, state_bytes=BLOCKS * warmed.flow.pool.block_bytes)
    made.vocoder.context = warmed.vocoder.context
    return made


@cache
def with_programs(family: str = "cosyvoice2") -> TorchBackend:
    made = backend(family=family)
    use_programs(made.flow, STREAMS, None)
    return made


def open_stream(over: TorchBackend, prompt: int, boundary: int) -> FlowState:
    state: FlowState = over.open(support.voice(prompt, plan=ChunkPlan(boundary, 25))).flow
    state.tokens = support.speech(160, seed=prompt)
    return state


def mels(over: TorchBackend, streams: list[tuple[int, int]], turns: list[list[int | None]]) -> list[Tensor]:
    """Decode streams of (prompt, first boundary) together; each turn has the number of tokens per stream, or None."""
    states, made = [open_stream(over, *stream) for stream in streams], []
    for turn in turns:
        hops = []
        for state, count in zip(states, turn, strict=False):
            if count is not None:
                end = min(state.plan.boundary_at_or_after(max(state.done, state.prompt) + count), state.available)
                hops += [FlowHop(state, end, final=end == state.available)] if end > state.done else []
        made += over.flow.append(hops) if hops else []
    return made


def difference(made: list[Tensor], expected: list[Tensor]) -> float:
    assert [mel.shape for mel in made] == [mel.shape for mel in expected]
    return max([float((one - other).abs().max()) for one, other in zip(made, expected, strict=True)], default=0.0)


@BOTH
@settings(max_examples=6)
@given(
    streams=st.lists(st.tuples(st.integers(0, 70), st.sampled_from([25, 40, 50])), min_size=1, max_size=STREAMS),
    turns=st.lists(
        st.lists(st.sampled_from([None, 1, 25, 50, 100]), min_size=STREAMS, max_size=STREAMS),
        min_size=1,
        max_size=3,
    ),
)
def test_programs_give_what_plain_steps_give(
    family: str, streams: list[tuple[int, int]], turns: list[list[int | None]]
) -> None:
    expected = mels(support.mini_backend(family), streams, turns)
    assert difference(mels(with_programs(family), streams, turns), expected) <= SAME


def test_hops_run_as_programs_and_batches_that_fit_none_run_without(caplog: pytest.LogCaptureFixture) -> None:
    programs = with_programs().flow.programs
    assert programs is not None
    before, caplog.handler.records[:] = programs.unprepared, []
    turns: list[list[int | None]] = [[25, None], [50, 25], [100, 50]]
    streams = [(30, 25), (40, 25)]
    assert difference(mels(with_programs(), streams, turns), mels(support.mini_backend(), streams, turns)) <= SAME
    assert programs.unprepared == before
    history: list[list[int | None]] = [[160, 160]]  # two streams, more new chunks than a hop has
    streams = [(60, 25), (60, 25)]
    assert difference(mels(with_programs(), streams, history), mels(support.mini_backend(), streams, history)) <= SAME
    assert programs.unprepared == with_programs().counts().unprepared_batches == before + 1
    assert [record.message for record in caplog.records] == [
        "no prepared program for this batch; kernels are launched one by one"
    ]


@pytest.mark.parametrize(
    ("family", "precision"),
    [
        ("cosyvoice2", Precision(state=torch.float8_e4m3fn)),
        ("cosyvoice2", Precision(state=torch.float16)),
        ("cosyvoice2", Precision(torch.bfloat16, torch.bfloat16)),
        ("cosyvoice3", Precision(torch.bfloat16, torch.float8_e4m3fn)),
    ],
    ids=["float8 states", "float16 states", "bfloat16", "bfloat16 and float8 states of cosyvoice3"],
)
def test_programs_compute_and_store_in_fewer_bits(family: str, precision: Precision) -> None:
    over = backend(precision, family)
    turns: list[list[int | None]] = [[25, None], [50, 25], [100, 50]]
    plain = mels(over, [(30, 25), (40, 25)], turns)
    use_programs(over.flow, 2, None)
    # Single values may be rounded differently; the mean error is the same.
    made = mels(over, [(30, 25), (40, 25)], turns)
    exact = mels(support.mini_backend(family), [(30, 25), (40, 25)], turns)
    errors = [float((torch.cat(one) - torch.cat(exact)).abs().mean()) for one in (plain, made)]
    assert 0 < errors[1] <= 1.1 * errors[0]


def test_a_stream_that_is_not_finite_is_computed_again_and_does_not_change_its_batch() -> None:
    over, tokens = with_programs(), support.speech(90)
    before = over.counts().non_finite

    def audio(spoil: bool) -> list[HopAudio | Exception]:
        states = [over.open(support.voice(prompt)) for prompt in (30, 40)]
        over.run([Hop(state, tokens, 50, final=True) for state in states], lambda: None)
        if spoil:
            kept = states[1].flow.kv_state
            assert kept is not None
            block = kept.blocks[0].index
            over.flow.pool.caches["estimator"].write(3, 1, slice(50 * block, 50 * block + 50), torch.tensor(math.nan))
        return over.run([Hop(state, tokens, 75, final=True) for state in states], lambda: None)

    for sound, spoilt in zip(audio(False), audio(True), strict=True):
        assert isinstance(sound, HopAudio)
        assert isinstance(spoilt, HopAudio)
        torch.testing.assert_close(torch.from_numpy(spoilt.samples), torch.from_numpy(sound.samples), atol=1e-3, rtol=0)
    assert over.counts().non_finite == before + 1


@pytest.fixture
def flow() -> Flow:
    return backend().flow


def test_a_record_that_computes_something_else_is_refused(flow: Flow) -> None:
    plain = probe_mel(flow)
    with pytest.raises(RuntimeError, match="differs from the plain one"):
        use_programs(flow, STREAMS, lambda run: lambda: None)
    assert flow.programs is None

    def refuse(run: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        use_programs(flow, STREAMS, refuse)
    assert flow.programs is None

    def fail_later(run: Callable[[], None]) -> Callable[[], None]:
        def replay() -> None:
            raise AssertionError("the driver does not replay")

        return replay

    with pytest.raises(AssertionError, match="does not replay"):
        use_programs(flow, STREAMS, fail_later)
    assert flow.programs is None
    assert torch.equal(probe_mel(flow), plain)


@pytest.mark.parametrize("kept", [torch.float32, torch.float8_e4m3fn])
def test_values_kept_in_fewer_bits_may_round_the_other_way(kept: torch.dtype) -> None:
    """A front of other last bits moves the mel by the rounding of what the cache keeps."""
    flow = backend(Precision(torch.float32, kept)).flow
    expected = probe_mel(flow)
    plain = flow.front.forward

    def last_bits(*given: Any) -> Tensor:
        out: Tensor = plain(*given)
        return out * (1 + 1e-7 * torch.randn(out.shape, generator=torch.Generator().manual_seed(3)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow.front, "forward", last_bits)
        moved = float((probe_mel(flow) - expected).abs().mean())
    assert moved <= LARGEST_DIFFERENCE[kept] / 10
    assert (moved > LARGEST_DIFFERENCE[torch.float32] / 10) == (kept != torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "probe_mel", _moves_by(2 * LARGEST_DIFFERENCE[torch.float32], expected))
        if kept == torch.float32:
            with pytest.raises(RuntimeError, match="differs"):
                use_programs(flow, 1, None)
        else:
            use_programs(flow, 1, None)
            assert flow.programs is not None
            assert flow.programs.fronts


def _moves_by(difference: float, mel: Tensor) -> Callable[[Flow], Tensor]:
    """A `probe_mel` that gives the mel at first and then another one."""
    calls = itertools.count()
    return lambda flow: mel + (difference if next(calls) else 0)


def test_another_attention_over_the_blocks_replaces_the_reference() -> None:
    """One that reads each stream's blocks by itself: new frames see what lies before their end, and nothing else."""

    class ByStream:
        def __init__(self, cache: KvCache, batch: Batch, dtype: torch.dtype) -> None:
            self._store, self._cache, self._batch = PlainAttention(cache, batch, dtype), cache, batch

        def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self._store(layer, q, k, v)
            batch, out = self._batch, q.new_zeros(*q.shape[:2], q.shape[2] * q.shape[3])
            for row in range(q.shape[0]):
                guidance, stream = divmod(row, batch.blocks.shape[0])
                kept = self._cache.read(int(batch.step), layer, batch.blocks[stream], q.dtype)[:, guidance]
                for n in range(int(batch.lengths[stream])):
                    seen = int(batch.ends[stream, n])
                    keys, values = kept[:, :seen].view(2, seen, *q.shape[2:]).unbind()
                    weights = torch.einsum("hd,khd->hk", q[row, n], keys) / q.shape[3] ** 0.5
                    out[row, n] = torch.einsum("hk,khd->hd", weights.softmax(-1), values).flatten()
            return out

    over = backend(family="cosyvoice3")
    turns: list[list[int | None]] = [[25, None], [25, 25]]
    expected = mels(over, [(30, 25), (20, 40)], turns)
    flow = over.flow
    programs = Programs(
        flow.solver, flow.estimator, flow.pool.caches["estimator"], 2, most_streams=2, attention=ByStream
    )
    programs.prepare()
    flow.programs = programs
    assert difference(mels(over, [(30, 25), (20, 40)], turns), expected) <= SAME
    assert programs.unprepared == 0


@pytest.mark.parametrize(
    ("family", "precision"),
    [
        ("cosyvoice2", Precision()),
        ("cosyvoice3", Precision()),
        ("cosyvoice3", Precision(torch.bfloat16, torch.float8_e4m3fn)),
    ],
    ids=["cosyvoice2", "cosyvoice3", "bfloat16 and float8 states"],
)
def test_the_fused_network_gives_what_the_plain_one_gives(precision: Precision, family: str) -> None:
    """Its plain parts; `test_triton_kernels` compares the kernels with these."""
    over = backend(precision, family)
    streams: list[tuple[int, int]] = [(30, 25), (7, 40), (0, 50)]
    turns: list[list[int | None]] = [[25, None, 50], [1, 25, 100]]
    expected = mels(over, streams, turns)
    use_programs(over.flow, STREAMS, None, network=fused_network(over.flow.solver.estimator))
    assert over.flow.programs is not None
    assert not isinstance(over.flow.programs.network, EstimatorNetwork)
    made = mels(over, streams, turns)
    assert over.flow.programs.unprepared == 0
    if precision == Precision():
        assert difference(made, expected) <= SAME
        return
    # Single values may be rounded differently; the mean error is the same.
    exact = mels(support.mini_backend(family), streams, turns)
    errors = [float((torch.cat(one) - torch.cat(exact)).abs().mean()) for one in (expected, made)]
    assert 0 < errors[1] <= 1.1 * errors[0]


def test_a_compiler_that_fails_or_gives_another_result_is_not_used(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(function: Callable[..., Tensor], **options: object) -> Callable[..., Tensor]:
        def missing(*arguments: Tensor) -> Tensor:
            raise OSError("no C++ compiler found")

        return missing

    def erring(function: Callable[..., Tensor], **options: object) -> Callable[..., Tensor]:
        return lambda *arguments: 2 * function(*arguments)

    plain, solver = probe_mel(flow), flow.solver
    for broken, reason in ((failing, "no C"), (erring, "differs from the plain one")):
        monkeypatch.setattr(torch, "compile", broken)
        with pytest.raises(RuntimeError, match=reason):
            compile_estimator(flow)
        assert flow.solver is solver
    assert torch.equal(probe_mel(flow), plain)


@pytest.mark.system
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
@BOTH
def test_compiled_steps_give_what_plain_ones_give(family: str) -> None:
    """Needs a C++ compiler; compiled steps alone, and as programs."""
    flow = backend(family=family).flow
    plain, solver = probe_mel(flow), flow.solver
    compile_estimator(flow)
    assert flow.solver is not solver
    assert flow.exact is solver
    assert 0 < (probe_mel(flow) - plain).abs().max() <= SAME
    use_programs(flow, 1, None)
    assert (probe_mel(flow) - plain).abs().max() <= SAME
