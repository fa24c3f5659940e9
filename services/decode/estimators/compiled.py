"""Faster ways to run the estimator, each compared with the plain one before it is used.

They change no result beyond rounding. A way that fails here, or gives another result, is not used: the flow stays as it
was, and the error has the reason.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from services.common.checkpoint.chunk_plan import ChunkPlan
from services.decode.flow.block_attention import MakeAttention, PlainAttention
from services.decode.flow.estimator import EstimatorNetwork
from services.decode.flow.model import Flow, FlowHop
from services.decode.flow.program import Record, StepNetwork
from services.decode.flow.programs import Programs, device_in_force
from services.decode.flow.solver import Solver

log = logging.getLogger(__name__)

_TOKENS = 60
_ROUGH_STEPS = 3
LARGEST_DIFFERENCE = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.05, torch.float8_e4m3fn: 0.05}
"""Mean difference of the mel, whose standard deviation is about 1: more than rounding causes, less than a defect.

The coarsest precision counts, of the computation or of what the cache keeps: a difference in the last bit of a float32
value is enough to round it the other way when it is kept in fewer bits.
"""


@dataclass(frozen=True)
class ProgramParts:
    """What programs run: the plain attention and network, or others that give the same result."""

    attention: MakeAttention = PlainAttention
    network: StepNetwork | None = None


def probe_mel(flow: Flow) -> Tensor:
    """Return the mel [frames, mel] of random tokens and a random voice, decoded in three hops; always the same."""
    config = flow.config
    generator = torch.Generator("cpu").manual_seed(0)
    embedding = torch.randn(config.speaker_dim, generator=generator)
    state = flow.open(torch.zeros(0), torch.zeros(0, config.output_size), embedding, ChunkPlan())
    state.tokens = torch.randint(config.vocab_size, (_TOKENS,), generator=generator).tolist()
    boundary = state.plan.first_boundary
    mels = [flow.append([FlowHop(state, end, final=False)])[0] for end in (boundary, 2 * boundary)]
    return torch.cat([*mels, *flow.append([FlowHop(state, state.available, final=True, keep=False)])])


def rough_mel(flow: Flow) -> Tensor:
    """`probe_mel` in a few Euler steps: mel of the checkpoint's kind at a third of the time, for a start on a CPU."""
    solver, programs, config = flow.solver, flow.programs, flow.config.solver
    few = replace(config, steps=min(_ROUGH_STEPS, config.steps))
    flow.solver = Solver(solver.estimator, flow.estimator, few, flow.config.output_size, flow.device)
    flow.programs = None
    try:
        return probe_mel(flow)
    finally:
        flow.solver, flow.programs = solver, programs


@torch.inference_mode()
def compile_estimator(flow: Flow) -> None:
    """Fuse the estimator's element-wise operations with torch.compile. `FlowHop.exact` uses the plain network.

    Raises RuntimeError if there is no compiler, it fails, or its code gives another result.
    """
    network, expected, plain = network_of(flow), probe_mel(flow), flow.solver
    # A second structure over the same weights, so that the first one stays as it is.
    compiled = copy.deepcopy(network, {id(weight): weight for weight in network.parameters()})
    compiled.compile_parts()
    try:
        with device_in_force(flow.device):
            flow.solver = flow.make_solver(compiled)
            _compare(flow, expected)
    except Exception as error:
        flow.solver = plain
        raise RuntimeError(str(error)) from error  # compilers raise errors of many types


@torch.inference_mode()
def use_programs(
    flow: Flow,
    most_streams: int,
    record: Record | None,
    attention: MakeAttention = PlainAttention,
    network: StepNetwork | None = None,
) -> None:
    """Run appends of up to `most_streams` streams, their front and their steps, as programs recorded by `record`.

    Makes all of them now, so that no batch waits for one: 101 for 16 streams, a few seconds on a GPU. Raises
    RuntimeError if they give another result, or whatever the recording or a step raises. `attention` replaces the
    reference by a kernel, `network` the estimator by an equal one.
    """
    expected = probe_mel(flow)
    cache = flow.pool.caches["estimator"]
    ratio = flow.config.mel_frames_per_token
    parts = (flow.solver, network or network_of(flow), cache, ratio)
    programs = Programs(*parts, most_streams=most_streams, record=record, attention=attention)
    with device_in_force(flow.device):
        torch.cuda.empty_cache()  # recordings need their own memory and cannot use what the allocator has cached
        programs.prepare()
        _prepare_fronts(flow, programs)
        torch.cuda.empty_cache()  # memory of the steps that ran before their recordings
    flow.programs = programs
    try:
        _compare_programs(flow, programs, expected)
    except Exception:
        flow.programs = None
        raise


def _prepare_fronts(flow: Flow, programs: Programs) -> None:
    """Prepare programs of the front; if that fails, it runs without, and the log has the reason."""
    caches = {name: flow.pool.caches[name] for name in flow.front.layouts(flow.config.chunk_tokens)}
    try:
        programs.prepare_fronts(flow.front, caches, flow.config.lookahead_tokens)
    except Exception as error:  # noqa: BLE001 - drivers raise errors of their own types; single kernels work
        _report_fronts(error)


def _compare_programs(flow: Flow, programs: Programs, expected: Tensor) -> None:
    try:
        _compare(flow, expected)
    except Exception as error:
        if not programs.fronts:
            raise
        programs.fronts = {}
        _compare(flow, expected)
        _report_fronts(error)


def _report_fronts(error: Exception) -> None:
    lines = str(error).splitlines() or [type(error).__name__]
    log.warning("the encoder's kernels are launched one by one", extra={"reason": lines[0]})


def network_of(flow: Flow) -> EstimatorNetwork:
    """Return the network of the flow's steps. Raises RuntimeError if a graph replaces it."""
    if not isinstance(flow.solver.estimator, EstimatorNetwork):
        raise RuntimeError("an exported graph replaces the estimator")
    return flow.solver.estimator


def _compare(flow: Flow, expected: Tensor) -> None:
    difference = float((probe_mel(flow) - expected).abs().mean())
    allowed = max(LARGEST_DIFFERENCE[dtype] for dtype in (flow.solver.estimator.dtype, flow.pool.dtype))
    if not difference <= allowed:  # NaN too
        raise RuntimeError(f"its mel differs from the plain one by {difference:.2g} in the mean, {allowed} is allowed")
