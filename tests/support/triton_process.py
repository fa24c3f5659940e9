"""Runs a module where torch finds Triton, which is not in the environment of the other tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRITON = ROOT / ".tools" / "triton"
"""Outside the environment of the other tests: torch behaves differently if it finds the package."""


def run_with_triton(module: str, *arguments: str, **environment: str) -> None:
    """Run a module in its own process, which must succeed. Skip the test if Triton is not installed."""
    if not list(TRITON.glob(".ready-*")):
        pytest.skip("the triton package is not installed: make test-system does that")
    path = os.pathsep.join([str(ROOT), str(TRITON)])
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
