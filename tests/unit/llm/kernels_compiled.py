"""Compile the Triton kernels for GPUs: `python -m tests.unit.llm.kernels_compiled DTYPE same|int8 CAPABILITY...`.

A program of its own, because torch behaves differently where it finds Triton. The kernels are launched on CPU tensors
with the sizes of the 0.5B layout, and each launch is compiled instead of run. The interpreter accepts more than this.
"""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from typing import Any

import torch

from benchmarks.llm_ops import LAUNCHES
from benchmarks.llm_peers import FULL_SIZE, random_model
from benchmarks.op_count import OpCounter
from services.common.checkpoint.model_dir import open_model_dir
from services.llm.model.kernels import PLAIN
from services.llm.model.layer_kernels import LAYERS
from services.llm.model.paged_kernel import ATTENTION, paged_split, paged_whole
from services.llm.model.sampling_kernels import SAMPLING
from services.llm.model.trials import drawn_ids, hidden_states
from tests.support.triton_compile import Launches, compile_for
from tests.unit.llm.llm_support import ROOT

KERNELS = {
    *("_embed", "_clear", "_add_norm", "_rotate_and_store", "_silu_up", "_score", "_draw", "_advance"),
    *("_attend", "_attend_part", "_merge", "_attend_tile"),
}

launches = Launches()
most: dict[str, int] = {}
"""Most kernels of a call of each part."""


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
        before, counter = len(launches.order), OpCounter()
        with counter:
            out = call(*arguments)
        most[part] = max(most.get(part, 0), len(launches.order) - before + counter.kernels.total())
        return out

    return counted


if __name__ == "__main__":
    launch_all(getattr(torch, sys.argv[1]), int8_kv=sys.argv[2] == "int8")
    assert set(launches.by_name) == KERNELS
    assert most == LAUNCHES  # which the benchmarks count
    for wanted in map(int, sys.argv[3:]):
        for launched in launches.by_name.values():
            compile_for(wanted, launched)
