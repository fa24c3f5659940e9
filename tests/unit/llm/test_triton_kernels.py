"""The Triton kernels without a GPU: its interpreter runs their arithmetic, and its compiler makes machine code."""

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


def run_with_triton(module: str, *arguments: str, **environment: str) -> None:
    """Run a module in its own process, which must succeed. Skip the test if Triton is not installed."""
    if not list(TRITON.glob(".ready-*")):
        pytest.skip("the triton package is not installed: make test-system does that")
    path = os.pathsep.join([str(ROOT), str(TRITON)])
    done = subprocess.run(
        [sys.executable, "-m", f"tests.unit.llm.{module}", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("part", ["attention", "tiles", "layers", "cache_writes", "sampling", "engine"])
def test_they_compute_what_their_plain_twins_compute(part: str) -> None:
    run_with_triton("kernels_interpreted", part, TRITON_INTERPRET="1")


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
    run_with_triton("kernels_compiled", computed, kept, *capabilities, TRITON_CACHE_DIR=str(tmp_path))
