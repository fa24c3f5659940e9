"""The Triton kernels without a GPU: its interpreter runs their arithmetic, and its compiler makes machine code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.triton_process import run_with_triton

pytestmark = pytest.mark.system


@pytest.mark.parametrize("part", ["attention", "tiles", "layers", "cache_writes", "sampling", "engine"])
def test_they_compute_what_their_plain_twins_compute(part: str) -> None:
    run_with_triton("tests.unit.llm.kernels_interpreted", part, TRITON_INTERPRET="1")


@pytest.mark.parametrize(
    ("computed", "kept", "capabilities"),
    [
        ("bfloat16", "same", ("80", "89", "90", "100")),
        ("bfloat16", "int8", ("80", "90")),
        ("float16", "same", ("90",)),
        ("float32", "same", ("89",)),
    ],
)
def test_they_compile_for_every_gpu(computed: str, kept: str, capabilities: tuple[str, ...], tmp_path: Path) -> None:
    """The families are Ampere, Ada, Hopper and Blackwell; float32 needs most shared memory, and Ada has the least."""
    run_with_triton("tests.unit.llm.kernels_compiled", computed, kept, *capabilities, TRITON_CACHE_DIR=str(tmp_path))
