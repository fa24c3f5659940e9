"""The recipe of the embedded voice runs from its packages to a directory that speaks (`make voice ARGS=--quick`)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from services.common.checkpoint.model_dir import open_model_dir
from training.run import NOT_BY_DEFAULT, STAGES

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".tools" / "training" / "bin" / "python"
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def recipe(work: Path, *arguments: str) -> str:
    command = [str(PYTHON), "-m", "training", "--quick", "--work", str(work), "--device", "cpu", *arguments]
    return subprocess.run(command, cwd=ROOT, env=ONE_THREAD, check=True, capture_output=True, text=True).stdout


@pytest.mark.system
def test_every_stage_runs_once_and_a_second_run_repeats_none(tmp_path: Path) -> None:
    """The voice of so few steps says nothing that anyone understands; it is loaded and speaks."""
    printed = recipe(tmp_path)
    assert [name for name in STAGES if f"\n{name}:" in f"\n{printed}"] == [
        name for name in STAGES if name not in NOT_BY_DEFAULT
    ]
    exported = tmp_path / "quick" / "export"
    model = open_model_dir(exported)
    assert [voice.name for voice in model.card.voices] == ["anna", "hugo", "slt", "rms"]
    assert (model.flow.solver.steps, model.flow.solver.rows) == (4, 1)
    size = sum(path.stat().st_size for path in exported.rglob("*") if path.is_file())
    assert size < 25e6
    figures = json.loads((tmp_path / "quick" / "report" / "figures.json").read_text(encoding="utf-8"))
    assert figures["summary"]["sentences"] == 2
    assert all(sample["seconds"] > 0 for sample in figures["samples"])
    checkpoints = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "quick").glob("*.pt")}
    recipe(tmp_path, "--stages", ",".join(name for name in STAGES if name not in ("report", *NOT_BY_DEFAULT)))
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "quick").glob("*.pt")} == checkpoints
