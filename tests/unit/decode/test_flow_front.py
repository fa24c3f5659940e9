"""The front of a batch: one upload, no work by stream, and programs for the shapes that are worth one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import cast

import pytest
import torch
from torch import Tensor

from benchmarks.decode_ops import CONFORMER, CONVOLUTIONS, count_front
from benchmarks.op_count import OpCounter
from services.common.checkpoint.chunk_plan import ChunkPlan
from services.common.checkpoint.weights import read_weights
from services.decode.estimators.compiled import probe_mel, use_programs
from services.decode.flow import encoder
from services.decode.flow.encoder import ConformerFront
from services.decode.flow.forward_pass import Pass
from services.decode.flow.front_program import FrontProgram, front_fits
from services.decode.flow.kv_cache import KvCache, KvLayout
from services.decode.flow.model import Flow, FlowHop, FlowState
from services.decode.flow.program import Shape
from services.decode.flow.programs import BLOCKS, Programs, Shapes
from tests.unit.decode import decode_support as support

BOTH = pytest.mark.parametrize("family", support.FAMILIES)
SAME = 1e-5


def flow_of(family: str = "cosyvoice2") -> Flow:
    """The mini's flow in one Euler step: the front is the same."""
    model = support.mini(family)
    config = replace(model.flow, solver=replace(model.flow.solver, steps=1))
    return Flow(config, weights(family))


@cache
def weights(family: str) -> dict[str, Tensor]:
    return read_weights(support.mini(family).weights_file("flow"))


def opened(flow: Flow, prompt: int) -> FlowState:
    spec = support.voice(prompt)
    tokens, mel, speaker = (torch.tensor(one) for one in (spec.prompt_tokens, spec.prompt_mel, spec.embedding))
    state = flow.open(tokens, mel, speaker, ChunkPlan())
    state.tokens = support.speech(120, seed=prompt)
    return state


def two_turns(flow: Flow, counter: OpCounter) -> None:
    """Three streams, two of which have states of different lengths."""
    states = [opened(flow, prompt) for prompt in (30, 0, 55)]
    flow.decode([FlowHop(states[0], 50, final=False), FlowHop(states[1], 25, final=False)])
    with counter.read_backs_counted():
        flow.decode([FlowHop(state, state.done + 75, final=False) for state in states[:2]])
        flow.decode([FlowHop(states[2], 75, final=False), FlowHop(states[1], 120, final=True, keep=False)])


@BOTH
@pytest.mark.parametrize("programs", [False, True], ids=["plain", "programs"])
def test_what_the_host_computes_for_a_batch_goes_to_the_device_as_one_copy(family: str, programs: bool) -> None:
    flow, counter = flow_of(family), OpCounter()
    if programs:
        use_programs(flow, 2, None)
    two_turns(flow, OpCounter())  # makes the tables of distances
    batches, decode = [], flow._decode

    def counted(*arguments: object) -> Tensor:
        batches.append(1)
        return decode(*arguments)  # type: ignore[arg-type]

    flow._decode = counted  # type: ignore[method-assign, assignment]
    two_turns(flow, counter)
    assert counter.uploads == len(batches) - 1  # the first hops were not counted
    assert counter.read_backs == 0


@pytest.mark.parametrize("kept", [10, 60], ids=["none is kept", "some are kept"])
def test_tables_of_distances_give_the_same_mel_whether_they_are_kept_or_not(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = probe_mel(flow_of())
    monkeypatch.setattr(encoder, "KEPT_DISTANCE", kept)
    assert float((probe_mel(flow_of()) - expected).abs().max()) <= SAME


def test_a_front_whose_weights_may_change_keeps_no_table_of_them() -> None:
    front = copy.deepcopy(flow_of().front)
    assert isinstance(front, ConformerFront)
    embedded = torch.randn(1, 20, front.width, generator=torch.Generator().manual_seed(0))

    def mel() -> Tensor:
        return front(embedded, lambda rate: Pass([17 if rate == "tokens" else 34], None))

    front.requires_grad_(True)
    before = mel().detach()
    with torch.no_grad():
        for block in front.encoder.encoders:
            cast(encoder.ConformerBlock, block).self_attn.linear_pos.weight.mul_(2)
    after = mel()
    assert float((after.detach() - before).abs().max()) > SAME
    after.sum().backward()  # type: ignore[no-untyped-call]
    weights = [weight for name, weight in front.encoder.named_parameters() if "linear_pos" in name]
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in weights)


@BOTH
def test_fronts_run_as_programs(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`test_flow_programs` compares what they give."""
    flow, ran = flow_of(family), list[Shape]()
    use_programs(flow, 2, None)
    run = FrontProgram.run

    def noting(own: FrontProgram, numbers: Tensor) -> Tensor:
        ran.append(own.shape)
        return run(own, numbers)

    monkeypatch.setattr(FrontProgram, "run", noting)
    two_turns(flow, OpCounter())
    assert len(ran) >= 3
    assert flow.programs is not None
    assert flow.programs.unprepared == 0


def test_every_shape_of_moderate_size_has_a_program() -> None:
    """A hop of one chunk has one whatever lies before it; large batches take longer to compute than to launch."""
    layouts = {"tokens": KvLayout(6, 25, 8, 64), "frames": KvLayout(4, 50, 8, 64)}  # the 0.5B layout
    caches = {name: KvCache(layout, 0, torch.float32, None) for name, layout in layouts.items()}
    shapes = Shapes(16, 50).all()
    fitting = {shape for shape in shapes if front_fits(shape, caches, 2)}
    assert {shape for shape in shapes if shape.frames == 50} <= fitting
    assert {shape for shape in shapes if shape.frames <= 100 and shape.blocks <= 32} <= fitting
    assert Shape(16, 400, 64) not in fitting
    alone = {"tokens": KvCache(KvLayout(0, 25, 1, 1), 0, torch.float32, None)}  # CosyVoice3's has no attention
    assert all(front_fits(shape, alone, 2) for shape in shapes)


def prepared(flow: Flow, record: Callable[[Callable[[], None]], Callable[[], None]] | None) -> Programs:
    use_programs(flow, 1, record)
    assert flow.programs is not None
    return flow.programs


def is_front(run: Callable[[], None]) -> bool:
    return isinstance(run.__self__, FrontProgram)  # type: ignore[attr-defined]


def test_programs_of_the_front_are_recorded_at_the_start_and_hold_their_constants() -> None:
    flow, recorded, smallest = flow_of(), list[Shape](), Shape(1, 50, 4)

    def record(run: Callable[[], None]) -> Callable[[], None]:
        if is_front(run):
            recorded.append(run.__self__.shape)  # type: ignore[attr-defined]
            if recorded[-1] == smallest:  # the others take long
                run()
        return run

    programs = prepared(flow, record)
    assert recorded == list(programs.fronts)
    constants = [id(one) for one in flow.front.constants()]
    assert constants
    assert [id(one) for one in programs.fronts[smallest]._held] == constants
    made = len(recorded)
    probe_mel(flow)
    assert [id(one) for one in flow.front.constants()] == constants  # as large as any program needs
    assert len(recorded) == made


def test_a_front_runs_without_a_program_in_shapes_that_lack_memory(caplog: pytest.LogCaptureFixture) -> None:
    def record(run: Callable[[], None]) -> Callable[[], None]:
        if is_front(run) and run.__self__.shape.blocks == BLOCKS[-1]:  # type: ignore[attr-defined]
            raise torch.OutOfMemoryError("CUDA out of memory\ndetails")
        return run

    programs = prepared(flow_of(), record)
    assert programs.find_front(1, 50, BLOCKS[-2]) is not None
    assert programs.find_front(1, 50, BLOCKS[-1]) is None
    [line] = [line for line in caplog.records if line.levelname == "WARNING"]
    assert line.__dict__["reason"] == "CUDA out of memory"


@pytest.mark.parametrize("fault", ["recording fails", "other result", "replay fails"])
def test_a_front_that_cannot_be_recorded_runs_without_and_the_log_has_the_reason(
    fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    flow = flow_of()
    plain = probe_mel(flow)

    def record(run: Callable[[], None]) -> Callable[[], None]:
        def failing() -> None:
            raise RuntimeError("operation not permitted")

        if not is_front(run):
            return run
        if fault == "recording fails":
            failing()
        return failing if fault == "replay fails" else lambda: None

    programs = prepared(flow, record)
    assert programs.fronts == {}
    assert len(programs)
    assert float((probe_mel(flow) - plain).abs().max()) <= SAME
    [line] = [line for line in caplog.records if line.levelname == "WARNING"]
    assert line.message == "the encoder's kernels are launched one by one"
    expected = "differs from the plain one" if fault == "other result" else "not permitted"
    assert expected in line.__dict__["reason"]


def test_the_kernels_of_a_front_do_not_depend_on_the_number_of_streams() -> None:
    small = replace(CONFORMER, input_size=16, width=16, heads=2, units=16)  # the count depends on the structure alone
    counts = [count_front(small, streams, past=1) for streams in (1, 3)]
    assert counts[0].kernels == counts[1].kernels
    assert counts[0].kernels.total() <= 320
    assert counts[0].read_backs == counts[0].uploads == 0
    convolutions = [count_front(CONVOLUTIONS, streams, past=1).kernels for streams in (1, 3)]
    assert convolutions[0] == convolutions[1]
    assert convolutions[0].total() <= 40


def counted(forward: Callable[..., Tensor], counter: OpCounter) -> Callable[..., Tensor]:
    def counting(*arguments: object) -> Tensor:
        with counter:
            return forward(*arguments)

    return counting


def test_a_front_without_programs_does_not_launch_by_stream() -> None:
    """Streams of different lengths: what the network runs is the same for two of them and for four."""
    counts = []
    for streams in (2, 4):
        flow, counter = flow_of(), OpCounter()
        states = [opened(flow, 10 * index) for index in range(streams)]
        for index, state in enumerate(states):
            flow.decode([FlowHop(state, 25 * (1 + index % 2), final=False)])
        flow.front.forward = counted(flow.front.forward, counter)  # type: ignore[method-assign]
        flow.decode([FlowHop(state, state.done + 25, final=False) for state in states])
        counts.append(counter.kernels)
    assert counts[0] == counts[1]
