"""Compile the Triton kernels for GPUs: `python -m tests.unit.llm.kernels_compiled DTYPE same|int8 CAPABILITY...`.

A program of its own, because torch behaves differently where it finds Triton. The kernels are launched on CPU tensors
with the sizes of the 0.5B layout, and each launch is compiled instead of run. The interpreter accepts more than this.
"""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from typing import Any

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
from triton.backends.compiler import GPUTarget  # type: ignore[import-not-found, import-untyped, unused-ignore]
from triton.compiler import ASTSource  # type: ignore[import-not-found, import-untyped, unused-ignore]
from triton.runtime.jit import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
    JITFunction,
    mangle_type,
)

from benchmarks.llm_ops import LAUNCHES
from benchmarks.llm_peers import FULL_SIZE, random_model
from benchmarks.op_count import OpCounter
from services.common.checkpoint.model_dir import open_model_dir
from services.llm.model.kernels import PLAIN
from services.llm.model.layer_kernels import LAYERS
from services.llm.model.paged_kernel import ATTENTION, paged_split, paged_whole
from services.llm.model.sampling_kernels import SAMPLING
from services.llm.model.trials import drawn_ids, hidden_states
from tests.unit.llm.llm_support import ROOT

SHARED = {80: 163, 89: 99, 90: 227, 100: 227}
"""Shared memory in KiB that one program may use, by compute capability."""
OPTIONS = ("num_warps", "num_stages")
KERNELS = {
    *("_embed", "_clear", "_add_norm", "_rotate_and_store", "_silu_up", "_score", "_draw", "_advance"),
    *("_attend", "_attend_part", "_merge", "_attend_tile"),
}

Launch = tuple[Any, tuple[Any, ...], dict[str, Any]]
launches: dict[str, Launch] = {}
order: list[str] = []
"""The names of all launches."""
most: dict[str, int] = {}
"""Most kernels of a call of each part."""


def keep(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **constants: Any) -> None:
    order.append(kernel.__name__)
    launches[kernel.__name__] = (kernel, arguments, constants)


def launch_all(dtype: torch.dtype, *, int8_kv: bool) -> None:
    config = replace(FULL_SIZE, num_layers=1, text_vocab=50)
    _, model = random_model(open_model_dir(ROOT / "models" / "tiny"), config, dtype)
    fused = replace(PLAIN, **ATTENTION, **LAYERS, **SAMPLING)
    fused = replace(fused, **{field.name: entered(field.name, getattr(fused, field.name)) for field in fields(fused)})
    for attend in (entered("attend", paged_split), paged_whole):
        hidden_states(model, replace(fused, attend=attend), int8_kv=int8_kv)
    drawn_ids(fused, model.llm_decoder.out_features, torch.device("cpu"))


def entered(part: str, call: Any) -> Any:
    """Return `call`; it enters its kernels, torch's own included, into `most`."""

    def counted(*arguments: Any) -> Any:
        before, counter = len(order), OpCounter()
        with counter:
            out = call(*arguments)
        most[part] = max(most.get(part, 0), len(order) - before + counter.kernels.total())
        return out

    return counted


def compile_for(capability: int, launch: Launch) -> None:
    kernel, arguments, keywords = launch
    constants = {name: value for name, value in keywords.items() if name not in OPTIONS}
    if "LIBDEVICE" in constants:
        constants["LIBDEVICE"] = True  # as on a GPU
    values = dict(zip(kernel.arg_names, arguments, strict=False), **constants)
    assert list(values) == kernel.arg_names
    # As a launch does it: tensors become pointers of known alignment, and an integer 1 a constant.
    signature = {name: "constexpr" if name in constants else mangle_type(value, True) for name, value in values.items()}
    fixed = {name: values[name] for name, kind in signature.items() if kind == "constexpr"}
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind.startswith("*")}
    made = triton.compile(
        ASTSource(kernel, signature, fixed, aligned),
        target=GPUTarget("cuda", capability, 32),
        options={name: keywords[name] for name in OPTIONS if name in keywords},
    )
    assert made.asm["cubin"], (kernel.__name__, capability)
    assert made.metadata.shared <= 1024 * SHARED[capability], (kernel.__name__, capability, made.metadata.shared)


if __name__ == "__main__":
    JITFunction.run = keep
    launch_all(getattr(torch, sys.argv[1]), int8_kv=sys.argv[2] == "int8")
    assert set(launches) == KERNELS
    assert most == LAUNCHES  # which the benchmarks count
    for wanted in map(int, sys.argv[3:]):
        for launched in launches.values():
            compile_for(wanted, launched)
