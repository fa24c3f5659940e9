"""The paged kernel without a GPU: Triton's interpreter runs its arithmetic, and its compiler makes machine code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.llm.llm_support import ROOT

pytestmark = pytest.mark.system
TRITON = ROOT / ".tools" / "triton"
"""Outside the environment of the other tests: torch behaves differently if it finds the package."""


def run_with_triton(script: str, *arguments: str, **environment: str) -> None:
    """Run a script in its own process, which must succeed. Skip the test if Triton is not installed."""
    if not list(TRITON.glob(".ready-*")):
        pytest.skip("the triton package is not installed: make test-system does that")
    path = os.pathsep.join([str(ROOT), str(TRITON)])
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


ARITHMETIC = """
import torch
from services.common.checkpoint.model_dir import open_model_dir
from services.llm.model.kv_cache import gathered
from services.llm.model.kv_cache import KVCache, SequenceInput, build_batch
from services.llm.model.paged_kernel import paged
config = open_model_dir("models/tiny").llm
generator = torch.Generator().manual_seed(0)
for quantized in (False, True):
    cache = KVCache(config, 80, 16, torch.device("cpu"), torch.float32, quantized=quantized)
    for stored in (cache.keys, cache.values):
        stored.copy_((50 * torch.randn(stored.shape, generator=generator)).clamp(-127, 127))
    for scales in (cache.key_scales, cache.value_scales):
        scales.uniform_(0, 0.05, generator=generator)
    blocks = torch.randperm(80, generator=generator).tolist()
    items = [SequenceInput([1], start, blocks[12 * i :]) for i, start in enumerate((0, 3, 17, 63, 64, 150))]
    batch = build_batch(items, 16, torch.device("cpu"))
    shape = (len(items), config.num_kv_heads, config.num_heads // config.num_kv_heads, config.head_dim)
    query = torch.randn(shape, generator=generator) / (1 if quantized else 50)
    for layer in (0, 3):
        expected = gathered(query, layer, batch, cache)
        torch.testing.assert_close(paged(query, layer, batch, cache), expected, atol=1e-4, rtol=1e-4)
"""

COMPILATION = """
import sys
from unittest import mock
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import mangle_type
from services.common.checkpoint.model_dir import open_model_dir
from services.llm.model import paged_kernel
from services.llm.model.kv_cache import KVCache, SequenceInput, build_batch

dtype, quantized, device = getattr(torch, sys.argv[1]), sys.argv[2] == "int8", torch.device("cpu")
config = open_model_dir("models/tiny").llm
cache = KVCache(config, 8, 16, device, dtype, quantized=quantized)
batch = build_batch([SequenceInput([1], 20, [2, 0]), SequenceInput([1], 3, [5])], 16, device)
query = torch.zeros(2, config.num_kv_heads, config.num_heads // config.num_kv_heads, config.head_dim, dtype=dtype)
kernel = paged_kernel._attend
with mock.patch.object(paged_kernel, "_attend", mock.MagicMock()) as launched:
    paged_kernel.paged(query, 1, batch, cache)
((arguments, constants),) = (tuple(call) for call in launched.__getitem__.return_value.call_args_list)
values = dict(zip(kernel.arg_names, arguments), **constants)
assert list(values) == kernel.arg_names
# Like a launch: tensors become pointers of known alignment, and an integer 1 a constant.
signature = {name: "constexpr" if name in constants else mangle_type(value, True) for name, value in values.items()}
fixed = {name: values[name] for name, kind in signature.items() if kind == "constexpr"}
aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind.startswith("*")}
for capability in map(int, sys.argv[3:]):
    made = triton.compile(ASTSource(kernel, signature, fixed, aligned), target=GPUTarget("cuda", capability, 32))
    assert made.asm["cubin"], capability
"""


def test_it_attends_like_plain_attention() -> None:
    run_with_triton(ARITHMETIC, TRITON_INTERPRET="1")


@pytest.mark.parametrize(
    ("computed", "kept"),
    [("bfloat16", "same"), ("float16", "same"), ("float32", "same"), ("bfloat16", "int8")],
)
def test_it_compiles_for_every_gpu(computed: str, kept: str, tmp_path: Path) -> None:
    """The families are Ampere, Ada, Hopper and Blackwell. The interpreter accepts more than the compiler."""
    run_with_triton(COMPILATION, computed, kept, "80", "89", "90", "100", TRITON_CACHE_DIR=str(tmp_path))
