"""The steps of the GPU check that need what a machine may lack: TF32, the MPS daemon (stand-ins here), torchaudio."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.gpu_check import decode, decode_kernel
from benchmarks.gpu_check.check import TINY, Check
from benchmarks.gpu_check.extras.features import features, read_wave
from benchmarks.gpu_check.extras.mps import CONTROL, FOLDERS, MpsUnavailable, loads, mps, mps_daemon
from benchmarks.gpu_check.results import read_record
from benchmarks.gpu_check.stack import LOADS
from benchmarks.gpu_check.steps import STEPS
from tests.support.tf32 import EmulatedTF32, torch_defaults

STAND_IN = """#!/bin/sh
test -d "$CUDA_MPS_PIPE_DIRECTORY" && test -d "$CUDA_MPS_LOG_DIRECTORY" || exit 9
if [ "$1" = -d ]; then command=start; else read command; fi
echo $command >> {record}
case $command in
  start) {start};;
  get_server_list) echo 4242;;
esac
"""


@pytest.fixture
def check(tmp_path: Path) -> Check:
    return Check("cpu", True, TINY, tmp_path, tmp_path / "record")


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a stand-in of the daemon's control program first in PATH; returns the file with the commands that it got."""
    return install(tmp_path, monkeypatch, start=":")


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, start: str) -> Path:
    program, record = folder / "bin" / CONTROL, folder / "commands"
    program.parent.mkdir()
    program.write_text(STAND_IN.format(record=record, start=start))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return record


def test_processes_inside_find_the_daemon(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = FOLDERS
    monkeypatch.setenv(own, "/operators/own")
    monkeypatch.delenv(other, raising=False)
    with mps_daemon() as servers:
        assert all(Path(os.environ[name]).is_dir() for name in FOLDERS)
        assert servers.now() == ["4242"]
    assert (os.environ[own], os.environ.get(other)) == ("/operators/own", None)
    assert commands.read_text().split() == ["start", "get_server_list", "quit"]


def test_the_daemon_ends_with_the_step_that_fails(commands: Path) -> None:
    with pytest.raises(ValueError, match="a load failed"), mps_daemon():
        raise ValueError("a load failed")
    assert commands.read_text().split() == ["start", "quit"]
    assert not any(name in os.environ for name in FOLDERS)


def test_a_daemon_that_cannot_start_is_reported(check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, start="echo no permission; exit 3")
    mps(check)
    assert read_record(check.record) == {"MPS": f"not available: {CONTROL} ended with status 3 (no permission)"}
    assert not check.failures


def test_a_machine_without_the_daemon_is_reported(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MpsUnavailable, match="is not installed"), mps_daemon():
        pass
    mps(check)
    assert read_record(check.record) == {"MPS": f"not available: {CONTROL} is not installed"}


def test_the_loads_have_figures_without_mps_to_compare_with() -> None:
    assert loads(tiny=False)
    assert all(load in LOADS for load in loads(tiny=False))


def test_features_need_torchaudio(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    features(check)
    (line,) = read_record(check.record).values()
    assert line.startswith("not compared: torchaudio does not import")
    assert not check.failures


def test_the_recorded_prompt_is_read() -> None:
    audio, rate = read_wave(TINY / "prompt_anna.wav")
    assert rate == 24000
    assert audio.ndim == 1
    assert 0.05 < abs(audio).max() <= 1.0


def test_the_prepared_script_names_steps_that_exist(tmp_path: Path) -> None:
    """`benchmarks/gpu_check/sitting.sh` with an interpreter that only records what it is given."""
    record, python = tmp_path / "calls", tmp_path / "python"
    python.write_text(f'#!/bin/sh\ntest "$1" = -m && echo "$OUT" "$@" >> {record}\nexit 0\n')
    python.chmod(0o755)
    script = Path(__file__).parents[3] / "benchmarks" / "gpu_check" / "sitting.sh"
    environment = {**os.environ, "PYTHON": str(python), "OUT": str(tmp_path / "out")}
    subprocess.run([script], env=environment, check=True, timeout=60)
    calls = [line.split() for line in record.read_text().splitlines()]
    checks = [call for call in calls if "benchmarks.gpu_check" in call]
    steps = [word for call in checks for word in call if word in {step.name for step in STEPS}]
    assert steps == ["decode_kernel", "decode_speed", "stack", "mps", "kill", "together", "states", "decode_speed"]
    assert len({call[0] for call in checks}) == len(checks)  # each has a folder of its own
    assert sum(float(call[call.index("--limit") + 1]) for call in checks) <= 540 - 30  # the rest is for the llm
    assert ["-m", "benchmarks.llm", "--device", "cuda:0"] in [call[1:5] for call in calls]


def test_the_vocoder_kernels_are_compared_with_convolutions_of_float32(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU torch's convolutions run in TF32 unless that is forbidden, as it is in a worker."""
    monkeypatch.setattr(decode_kernel, "VOCODER", {64: 50})
    monkeypatch.setattr(decode_kernel, "HEADS", {})
    with torch_defaults(), EmulatedTF32():
        decode_kernel.decode_kernel(check)
    assert not check.failures


def test_a_form_of_the_vocoder_that_fails_does_not_end_the_step(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*parts: object) -> float:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(decode, "batch_seconds", fail)
    backend: Any = SimpleNamespace(vocoder=None, chunk_frames=50)
    decode._time_vocoder(check, backend)
    assert check.failures == ["vocoder: 1 streams of 50 new frames with plain operations: they run"]
