"""Decode's Triton kernels without a GPU: the interpreter runs their arithmetic, the compiler makes machine code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.triton_process import run_with_triton

pytestmark = pytest.mark.system


@pytest.mark.parametrize(
    "part",
    [
        "attention",
        "tiles",
        "past_of_others",
        "products",
        "modulations",
        "convolutions",
        "joins",
        "vocoder_convolutions",
        "step",
    ],
)
def test_they_compute_what_their_plain_twins_compute(part: str) -> None:
    run_with_triton("tests.unit.decode.kernels_interpreted", part, TRITON_INTERPRET="1")


@pytest.mark.parametrize(
    ("computed", "stored", "variants", "capabilities"),
    [
        ("bfloat16", "bfloat16", "all", ("90",)),
        ("bfloat16", "float8_e4m3fn", "kinds", ("80", "89", "90", "100")),
        ("float16", "float16", "kinds", ("90",)),
        ("float32", "float8_e4m3fn", "kinds", ("89",)),
        ("bfloat16", "bfloat16", "early", ("90", "100")),
        ("bfloat16", "float8_e4m3fn", "early", ("90",)),
    ],
)
def test_they_compile_for_every_gpu(
    computed: str, stored: str, variants: str, capabilities: tuple[str, ...], tmp_path: Path
) -> None:
    """The families are Ampere, Ada, Hopper and Blackwell; float32 needs most shared memory, and Ada has the least.

    From Hopper on, kernels may be launched early; they must wait before they touch memory.
    """
    module = "tests.unit.decode.kernels_compiled"
    run_with_triton(module, computed, stored, variants, *capabilities, TRITON_CACHE_DIR=str(tmp_path))
