"""The GPU check's rehearsal on a CPU: its steps run to their ends, so that none fails on a GPU by a mistake of its own.

The steps llm_speed, decode_exact and decode_speed take as long as all others together and are left out here;
`make gpu-check ARGS="--device cpu --tiny"` rehearses them too, in three minutes of processor time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lighttts.v1 import decode_pb2_grpc

ROOT = Path(__file__).parents[2]
CHEAP_STEPS = (
    *("env", "features", "kernel", "decode_kernel", "llm_exact", "states", "together", "stack", "mps", "kill"),
)


@pytest.mark.system
def test_rehearsal_without_a_gpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu_check", *CHEAP_STEPS, "--device", "cpu", "--tiny"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OUT": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    steps = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["steps"]
    outcomes = {name: step["outcome"] for name, step in steps.items()}
    assert outcomes == {name: "skipped" if name == "kernel" else "ok" for name in CHEAP_STEPS}
    assert all(step["values"] for step in steps.values() if step["outcome"] == "ok")
    report = (tmp_path / "results.md").read_text(encoding="utf-8")
    for name, step in steps.items():
        assert f"\n| {name} | {step['outcome']}" in report
        assert (f"\n## {name}\n" in report) == bool(step["values"])
        for value in step["values"]:
            assert value in report


def test_wheels_suit_the_generated_code() -> None:
    lines = (ROOT / "benchmarks" / "gpu_check" / "wheels.txt").read_text(encoding="utf-8").splitlines()
    versions = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert _numbers(versions["grpcio"]) >= _numbers(decode_pb2_grpc.GRPC_GENERATED_VERSION)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]
