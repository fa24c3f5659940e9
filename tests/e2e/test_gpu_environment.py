"""What runs without a GPU, with the packages of the CUDA images: imports, commands, the GPU check's rehearsal.

`make gpu-env` makes the environment; GPU_PYTHON names the interpreter of another one, GPU_PYTHONPATH further packages.
Without one, the tests are skipped: the packages are 6 GB.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tools.image_sizes import CONSTRAINTS, ENVIRONMENT, constraints, installed

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("GPU_PYTHON") or ENVIRONMENT)
pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not PYTHON.exists(), reason="needs the CUDA images' packages: `make gpu-env` (6 GB)"),
]
MODULES = ("services", "gateway", "cli", "benchmarks/gpu_check")
OPTIONAL = {"kubernetes", "redis", "opentelemetry.sdk", "c2pa", "av", "greenlet", "matplotlib"}
"""Packages of extras, which a bare GPU machine may lack; a module that needs one need not import there."""
IMPORT = """
import importlib, json, sys
failed = {}
for name in json.load(sys.stdin):
    try:
        importlib.import_module(name)
    except Exception as error:
        failed[name] = [type(error).__name__, getattr(error, "name", None) or "", str(error)]
json.dump(failed, sys.stdout)
"""
STEPS = ("env", "features", "decode_kernel", "llm_exact", "states", "together", "stack")


def run(*arguments: str, given: str = "", out: Path | None = None) -> str:
    """Run the environment's interpreter on this checkout; return its output."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("GPU_PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OUT": str(out or "")}
    done = subprocess.run(
        [PYTHON, *arguments], cwd=ROOT, env=environment, input=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_the_versions_are_those_of_the_images() -> None:
    found, wanted = installed(PYTHON), constraints(CONSTRAINTS)
    on_gpu = {name for name in wanted if name in {"torch", "triton"} or name.startswith(("nvidia-", "cuda-"))}
    assert len(on_gpu) > 10
    assert {name: found[name].version for name in on_gpu} == {name: wanted[name] for name in on_gpu}


def test_every_module_imports() -> None:
    files = [file for folder in MODULES for file in sorted((ROOT / folder).rglob("*.py")) if file.stem != "__main__"]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    failed = json.loads(run("-c", IMPORT, given=json.dumps(names)))
    unexpected = {
        name: error
        for name, (kind, lacking, error) in failed.items()
        if kind != "ModuleNotFoundError" or not any(f"{lacking}.".startswith(f"{one}.") for one in OPTIONAL)
    }
    assert not unexpected


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("--help",), "Commands"),
        (("doctor",), "torch 2"),
        (("up", "--help"), "--device"),
        (("bench", "--help"), "--rate"),
    ],
)
def test_commands_work(arguments: tuple[str, ...], shown: str) -> None:
    assert shown in run("-c", "from cli.main import main; main()", *arguments)


def test_the_gpu_check_is_rehearsed(tmp_path: Path) -> None:
    run("-m", "benchmarks.gpu_check", *STEPS, "--device", "cpu", "--tiny", out=tmp_path)
    steps = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["steps"]
    assert {name: step["outcome"] for name, step in steps.items()} == dict.fromkeys(STEPS, "ok")
    compared = [value for name, value in steps["features"]["values"].items() if name.endswith("equals torchaudio's")]
    assert len(compared) == 5
    assert all(str(value).startswith("yes") for value in compared)
