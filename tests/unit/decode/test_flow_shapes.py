"""All shapes that serving needs are prepared at the start, and none is recorded while a listener waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from services.common.checkpoint.chunk_plan import ChunkPlan
from services.decode.engine.backends import Hop, HopAudio
from services.decode.engine.hops import HopPolicy
from services.decode.engine.scheduler import EngineLimits, Moment, Stream, deadline, pick, ready_jobs
from services.decode.engine.service_time import ServiceTime
from services.decode.engine.state import ResumeRecord
from services.decode.engine.torch_backend import TorchBackend
from services.decode.flow.kv_cache import KvState
from services.decode.flow.model import Flow, FlowHop
from services.decode.flow.program import Record, Shape
from services.decode.flow.programs import BLOCKS, Programs, Shapes
from tests.unit.decode import decode_support as support

MODEL = support.mini()
MOST_STREAMS = 16
LONGEST_PROMPT = 750
"""Tokens of the longest prompt that the encode service accepts (30 s)."""
LONGEST = 25 * BLOCKS[-1]
"""Tokens of the longest utterance that runs as programs."""


def programs_of(flow: Flow, most_streams: int, record: Record | None = None) -> Programs:
    return Programs(
        flow.solver, flow.estimator, flow.pool.caches["estimator"], 2, most_streams=most_streams, record=record
    )


class NoComputation(TorchBackend):
    """Selects work like the real backend, but computes nothing: every mel is zero."""

    def __init__(self) -> None:
        block = support.mini_backend().flow.pool.block_bytes
        super().__init__(MODEL, state_bytes=(MOST_STREAMS + 4) * BLOCKS[-1] * block)
        self.flow._decode = self._nothing  # type: ignore[method-assign]

    def _nothing(
        self, hops: Sequence[FlowHop], kv_states: Sequence[tuple[KvState, KvState | None]], on_step: Callable[[], None]
    ) -> Tensor:
        longest = max(hop.end - before.tokens for hop, (before, _) in zip(hops, kv_states, strict=True))
        mel = torch.zeros(len(hops), 2 * longest, 80)
        later = [after for _, after in kv_states if after]
        self.flow._programs(len(hops), longest, later, exact=hops[0].exact)
        return mel

    def _vocode(
        self, hops: Sequence[Hop], mels: Sequence[Tensor], totals: Sequence[Tensor]
    ) -> tuple[list[float], list[HopAudio | Exception]]:
        record = ResumeRecord(ChunkPlan(), 0, 0, 0, 0, np.zeros((0, 80), np.float32), np.zeros(0))
        samples = [np.zeros(self.format.frame_samples * mel.shape[0], np.float32) for mel in mels]
        audio = [HopAudio(hop.state.vocoder.emitted, one, record) for hop, one in zip(hops, samples, strict=True)]
        return [0.0] * len(hops), [*audio]


@cache
def no_computation() -> TorchBackend:
    return NoComputation()


@dataclass(frozen=True)
class Utterance:
    prompt: int
    tokens: int
    plan: ChunkPlan
    hops: HopPolicy
    offline: bool


PLANS = st.builds(ChunkPlan, st.integers(1, 100), st.sampled_from([25, 50, 100])) | st.just(ChunkPlan())
UTTERANCES = st.builds(
    Utterance,
    prompt=st.integers(0, LONGEST_PROMPT),
    tokens=st.integers(1, LONGEST - LONGEST_PROMPT),
    plan=PLANS,
    hops=st.just(HopPolicy()) | st.just(HopPolicy(sizes=(25,))),
    offline=st.booleans(),
)


def decode(
    over: TorchBackend, utterances: list[Utterance], most_streams: int, pace: float, lost: bool, least: int
) -> None:
    """Decode them with the engine's scheduling; `pace` seconds pass per batch, `lost` streams keep no state. `least` is
    the load's smallest hop."""
    limits, times, now = EngineLimits(max_batch=most_streams), ServiceTime(), 0.0
    streams = []
    for one in utterances:
        named = f"{one.prompt}-{one.plan}"
        spec = support.voice(one.prompt, voice=named, plan=one.plan, hops=one.hops, offline=one.offline)
        streams.append(Stream(spec, now, spec.plan, tokens=[0] * one.tokens, ended=True))

    def kept(one: Stream) -> int:
        return over.cached_tokens(one.state) if one.state else 0

    while streams:
        moment = Moment(now, over.format, limits, times, kept, least)
        batch = pick(ready_jobs(streams, moment), deadline, moment)
        for job in batch:
            job.stream.state = job.stream.state or over.open(job.stream.spec)
            if lost:
                over.evict(job.stream.state)
        made = over.run([Hop(job.stream.state, job.stream.tokens, job.end, job.final) for job in batch], lambda: None)
        now += pace
        for job, audio in zip(batch, made, strict=True):
            assert isinstance(audio, HopAudio)
            stream = job.stream
            stream.done, stream.emitted = job.end, stream.emitted + audio.samples.shape[0]
            stream.played = stream.played or (0.0, now)
            if stream.done == stream.available:
                streams.remove(stream)


@settings(max_examples=40)
@given(
    utterances=st.lists(UTTERANCES, min_size=1, max_size=MOST_STREAMS),
    most_streams=st.integers(1, MOST_STREAMS),
    pace=st.sampled_from([0.0, 0.1, 2.0]),
    lost=st.booleans(),
    alike=st.booleans(),
    least=st.sampled_from([0, 50, 100]),
)
def test_every_shape_that_serving_needs_is_prepared(
    utterances: list[Utterance], most_streams: int, pace: float, lost: bool, alike: bool, least: int
) -> None:
    """Whole histories of several streams at once may run without a program; those of one stream may not."""
    utterances = utterances[:1] * len(utterances) if alike else utterances  # alike ones are decoded together
    over, asked = no_computation(), []
    programs = programs_of(over.flow, most_streams)
    programs.prepare()
    find = programs.find

    def noting(*size: int) -> object:
        asked.append(size)
        found = find(*size)
        assert found is not None, f"no program for (streams, frames, blocks) {size}"
        return found

    programs.find = noting  # type: ignore[method-assign, assignment]
    over.flow.programs = programs
    try:
        decode(over, utterances, most_streams, pace, lost and most_streams == 1, least)
    finally:
        over.flow.programs = None
        for one in utterances:
            over.evict_voice(f"{one.prompt}-{one.plan}")
    assert asked or all(one.prompt < 128 for one in utterances)  # short ones have no cached prompt
    assert programs.unprepared == 0


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 3200), st.integers(1, 64))
@settings(max_examples=300)
def test_a_batch_gets_the_smallest_of_the_enumerated_shapes_that_holds_it(
    most_streams: int, streams: int, frames: int, blocks: int
) -> None:
    shapes = Shapes(most_streams, 50)
    blocks = max(blocks, -(-frames // 50))
    count = min((one for one in shapes.streams if one >= streams), default=0)
    holding = [
        shape for shape in shapes.all() if shape.streams == count and shape.frames >= frames and shape.blocks >= blocks
    ]
    expected = min(holding, key=lambda shape: (shape.frames, shape.blocks), default=None)
    assert shapes.fit(streams, frames, blocks) == expected


def test_prepare_records_exactly_the_enumerated_shapes_and_nothing_is_recorded_later() -> None:
    flow, recorded = support.mini_backend().flow, []

    def record(run: Callable[[], None]) -> Callable[[], None]:
        recorded.append(run.__self__.shape)  # type: ignore[attr-defined]
        return run

    programs = programs_of(flow, 4, record)
    assert programs.find(1, 50, 4) is None
    assert recorded == []
    programs.prepare()
    assert recorded == Shapes(4, 50).all()
    assert len(set(recorded)) == len(recorded) == len(programs)
    for shape in recorded:
        found = programs.find(shape.streams, shape.frames, shape.blocks)
        assert found is not None
        assert found.shape == shape
    assert programs.find(5, 50, 4) is None  # more streams than the engine batches
    assert programs.find(2, 401, 16) is None  # more new chunks than a hop of several streams has
    assert programs.find(1, 50, 65) is None  # more than a minute
    assert len(recorded) == len(programs)
    assert programs.unprepared == 4


def test_a_gpu_that_batches_16_streams_prepares_these() -> None:
    shapes = Shapes(16, 50).all()
    assert len(shapes) == 101
    assert shapes[0] == Shape(16, 400, 64)  # the largest first
    assert {shape.streams for shape in shapes} == {1, 2, 4, 8, 16}
    assert Shapes(3, 50).fit(3, 51, 5) == Shape(3, 100, 8)
    assert Shapes(16, 50).fit(1, 1450, 29) == Shape(1, 1600, 32)  # the prompt of a new voice


def test_shapes_without_memory_run_without(caplog: pytest.LogCaptureFixture) -> None:
    flow = support.mini_backend().flow

    def small(run: Callable[[], None]) -> Callable[[], None]:
        if run.__self__.shape.blocks == BLOCKS[-1]:  # type: ignore[attr-defined]
            raise torch.OutOfMemoryError("CUDA out of memory\ndetails")
        return run

    programs = programs_of(flow, 2, small)
    programs.prepare()
    assert programs.find(1, 50, 32) is not None
    for _ in range(2):
        assert programs.find(1, 50, 64) is None
    assert programs.unprepared == 2
    assert [record.levelname for record in caplog.records] == [
        "WARNING",
        "WARNING",
    ]  # at the start, and for a batch
    assert caplog.records[0].__dict__["reason"] == "CUDA out of memory"

    def none(run: Callable[[], None]) -> Callable[[], None]:
        raise torch.OutOfMemoryError("CUDA out of memory\ndetails")

    with pytest.raises(RuntimeError, match="out of memory"):
        programs_of(flow, 2, none).prepare()
