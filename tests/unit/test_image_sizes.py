"""The constraints of the CUDA images, and the table of their size."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools.image_sizes import CONSTRAINTS, Installed, constraints, differences, installed, main, table

ROOT = Path(__file__).parents[2]
OWN = {"torch", "torchaudio", "triton", "onnxruntime-gpu", "setuptools", "tensorrt-cu12"}
"""Packages that the CPU images have in another version or not at all, besides NVIDIA's libraries."""


def test_both_variants_agree_in_all_but_what_computes_on_gpus() -> None:
    cpu, cuda = constraints(ROOT / "Dockerfiles" / "constraints.txt"), constraints(CONSTRAINTS)
    assert len(cuda) > len(cpu) > 50
    on_gpu = {name for name in cuda if name in OWN or name.startswith(("nvidia-", "cuda-"))}
    assert {name: cuda.get(name) for name in set(cpu) - OWN} == {name: cpu[name] for name in set(cpu) - OWN}
    assert set(cuda) - set(cpu) <= on_gpu
    assert {"torch", "triton", "onnxruntime-gpu"} <= on_gpu


def test_the_cuda_images_use_them() -> None:
    assert f"!Dockerfiles/{CONSTRAINTS.name}" in (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert CONSTRAINTS.name in (ROOT / "Dockerfiles" / "base.Dockerfile").read_text(encoding="utf-8")


def test_the_table_adds_up() -> None:
    found = {
        "torch": Installed("1", 2_000_000_000),
        "nvidia-cublas": Installed("1", 500_000_000),
        "cuda-bindings": Installed("1", 1_000_000),
        "triton": Installed("2", 600_000_000),
        "numpy": Installed("1", 70_000_000),
        "a-game": Installed("1", 9_000_000_000),
    }
    wanted = {**dict.fromkeys(found, "1"), "redis": "1"}
    del wanted["a-game"]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table(found, wanted)][2:]
    sizes = {row[1].split(",")[0]: int(row[3].replace(",", "")) for row in rows}
    assert (sizes["torch"], sizes["CUDA libraries"], sizes["triton"], sizes["other packages"]) == (2000, 501, 600, 70)
    assert abs(sizes["without the base image"] - sum(sizes.values()) / 2) <= len(sizes)
    assert list(differences(found, wanted)) == ["triton: 2 here, 1 in the images", "not in this environment: redis"]


def test_an_environment_is_measured(tmp_path: Path) -> None:
    """One package, found by an interpreter that has no other."""
    folder = tmp_path / "thing-1.5.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: Thing\nVersion: 1.5\n")
    (folder / "RECORD").write_text("thing.py,,\nmissing.py,,\n")
    (tmp_path / "thing.py").write_text("x" * 1000)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    assert installed(python)["thing"] == Installed("1.5", 1000)


def test_a_missing_environment_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["image_sizes", "--python", "/nowhere/python"])
    assert main() == 2
    assert "make gpu-env" in capsys.readouterr().out
