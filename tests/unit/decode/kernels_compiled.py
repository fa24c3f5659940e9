"""Compile decode's Triton kernels for GPUs: `python -m tests.unit.decode.kernels_compiled DTYPE STATES all|kinds|early
CAPABILITY...`, for every set of constants or for each kind of kernel once; `early` is the kinds, launched early.

A program of its own, because torch behaves differently where it finds Triton. The kernels are launched on CPU tensors
with the sizes of the 0.5B layouts, and each launch is compiled instead of run. The interpreter accepts more than this.
"""

from __future__ import annotations

import copy
import re
import sys
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.decode_ops import UNET, flow_config
from services.common.checkpoint.flow_config import DiTConfig
from services.decode.estimators import attention_kernel
from services.decode.estimators.attention_kernel import EARLY_ATTENTION, BlockAttention
from services.decode.estimators.fused import fused_network
from services.decode.estimators.layer_kernels import FUSED, FUSED_EARLY
from services.decode.flow.kv_cache import KvCache
from services.decode.flow.model import make_network
from services.decode.flow.program import EulerProgram, Shape, scratch
from services.decode.flow.solver import Solver, Start
from services.decode.vocoder.activation import Snake
from services.decode.vocoder.activation_kernel import convolve_then_join
from services.decode.vocoder.conv import Conv
from services.decode.vocoder.convolution_kernel import FusedConvolve
from tests.support.triton_compile import Launch, Launches, compile_for

if TYPE_CHECKING:
    from services.common.checkpoint.flow_config import UNetConfig

ESTIMATOR = {"_attend", "_product", "_convolve", "_modulate", "_rotate"}
VOCODER = {"_join", "_convolve_join"}
CPU = torch.device("cpu")
SHAPES = (Shape(1, 50, 4), Shape(10, 50, 4))
"""Few streams, whose tiles are small, and many."""
WAIT, LET_NEXT = "griddepcontrol.wait;", "griddepcontrol.launch_dependents;"
TENSOR_MEMORY = "tcgen05.alloc"
MEMORY = re.compile(r"\b(ld|st|cp|atom|red|prefetch\w*)\.(?!param|shared)[\w.:]*")
"""Every instruction that may touch global memory; copies from it to shared memory are named `cp`."""


def launch_all(estimator: UNetConfig | DiTConfig, computed: torch.dtype, stored: torch.dtype, early: bool) -> None:
    config = flow_config(estimator, depth=1)
    exact = make_network(config).requires_grad_(False)
    network = copy.deepcopy(exact).to(computed)
    solver = Solver(network, exact, config.solver, config.output_size, CPU)
    cache = KvCache(network.layout(50, solver.steps, solver.rows), 4, stored, CPU)
    step = fused_network(network, FUSED_EARLY if early else FUSED)
    attention = EARLY_ATTENTION if early else BlockAttention
    room = scratch(solver, SHAPES)
    for shape in SHAPES:
        program = EulerProgram(solver, step, cache, 2, shape, room, attention)
        zeros = torch.zeros(shape.streams, shape.frames, config.output_size)
        with torch.inference_mode():
            program.fill(Start(zeros, zeros, zeros[:, 0], zeros), program.numbers([]))
            program.step()


def launch_vocoder() -> None:
    """The convolutions of the vocoder's blocks: before a block's first one, inside, at its end, and in narrow tiles."""
    convolve, conv, snake = FusedConvolve(), Conv(64, 64, 3, zeros=(1, 1)), Snake(64)
    for streams, columns in ((2, 300), (16, 1100)):
        x, known = torch.zeros(streams, 64, columns), torch.ones(streams, 1, columns)
        for form in (convolve_then_join, convolve):
            for last in (snake, None):
                form(x, conv, known, x, last)
            form(x, conv, known, None, snake)
            form(x, None, known, None, snake)


def kind_of(launch: Launch) -> tuple[Any, ...]:
    """What changes the code and the shared memory of a kernel most."""
    kernel, _, constants = launch
    tiles = tuple(constants.get(name) for name in ("TILE", "ROWS", "COLUMNS", "CHUNK", "NORM"))
    return kernel.__name__, *tiles, bool(constants.get("SHORT_INPUTS"))


def check_order(name: str, ptx: str) -> None:
    """A kernel that is launched early waits before it touches memory, and then lets the next one start."""
    touched = [found.start() for found in MEMORY.finditer(ptx)]
    assert touched, name
    assert ptx.count(WAIT) == ptx.count(LET_NEXT) == 1, name
    assert ptx.index(WAIT) < ptx.index(LET_NEXT) < touched[0], name
    # The next kernel must not take the tensor memory that a program of this one still needs.
    assert ptx.rfind(TENSOR_MEMORY) < ptx.index(LET_NEXT), name


if __name__ == "__main__":
    computed, stored = (getattr(torch, name) for name in sys.argv[1:3])
    attention_kernel.multiprocessors = lambda device: 132  # type: ignore[assignment]
    launches = Launches()
    early = sys.argv[3] == "early"
    launch_all(UNET, computed, stored, early)
    launch_all(DiTConfig(width=64, depth=1, heads=16, head_dim=64, ff_mult=2), computed, stored, early)
    if not early:
        launch_vocoder()
    assert set(launches.by_name) == (ESTIMATOR if early else ESTIMATOR | VOCODER)
    wanted = launches.variants
    if sys.argv[3] != "all":
        wanted = {kind_of(launch): launch for launch in wanted.values()}
    for capability in map(int, sys.argv[4:]):
        for launch in wanted.values():
            kernel, _, constants = launch
            ptx = compile_for(capability, launch)
            assert early == constants.get("launch_pdl", False) == (WAIT in ptx)
            if early:
                check_order(kernel.__name__, ptx)
