"""The processes of a run: one per step, one that writes the checkpoint meanwhile. Needs the standard library only."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.gpu_check.results import FAILED, OK, SKIPPED, TIMED_OUT, StepResult, read_record
from benchmarks.gpu_check.steps import Step

ROOT = Path(__file__).parents[2]
CHECKPOINTS = {
    family: Path(tempfile.gettempdir()) / f"light-tts-{family}-0.5b-random" for family in ("cosyvoice2", "cosyvoice3")
}
"""Where the layout of each family is written."""
CHECKPOINT_WAIT_S = 180.0
SLOWER_ON_CPU = 3
"""Factor of a step's limit on a CPU, where only the embedded voice is practical."""
LEAST_S = 10.0
"""A step with less time is skipped."""
STOP_GRACE_S = 20.0
"""Time for a step at its limit to stop the processes that it started, before it is killed."""


@dataclass(frozen=True)
class StepRunner:
    """Runs the steps of one run. `scratch` has the records of the step processes."""

    device: str
    tiny: bool
    checkpoint: Path
    out: Path
    scratch: Path

    def run(self, step: Step, seconds_left: float) -> StepResult:
        """Run the step's process until its end or its limit; keep the results that it has reported.

        `seconds_left` of the whole run shortens the limit; with less than LEAST_S the step is skipped.
        """
        if step.needs_gpu and self.device == "cpu":
            return StepResult(step.name, SKIPPED, reason="needs a GPU")
        limit = min(step.limit_s * (SLOWER_ON_CPU if self.device == "cpu" else 1), seconds_left - STOP_GRACE_S)
        if limit < LEAST_S:
            return StepResult(step.name, SKIPPED, reason="no time left")
        record, failure = (self.scratch / f"{step.name}.{kind}" for kind in ("results", "failure"))
        folders = {"checkpoint": self.checkpoint, "out": self.out, "record": record, "failure": failure}
        command = [sys.executable, "-m", "benchmarks.gpu_check.step_process", step.name, "--device", self.device]
        command += [part for name, path in folders.items() for part in (f"--{name}", str(path))]
        started = time.perf_counter()
        status = run_with_limit([*command, *(["--tiny"] if self.tiny else [])], limit)
        seconds = round(time.perf_counter() - started, 1)
        if status is None:
            outcome, reason = TIMED_OUT, f"stopped after {limit:.0f} s"
        elif status == 0:
            outcome, reason = OK, ""
        else:
            outcome, reason = FAILED, f"the process ended with status {status}"
            if failure.exists():
                reason = failure.read_text(encoding="utf-8")
        return StepResult(step.name, outcome, seconds, reason, read_record(record))


def run_with_limit(command: list[str], limit_s: float) -> int | None:
    """Return the exit status of a command, None if it was stopped at its limit; its child processes end with it."""
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt the process group, as Ctrl-C does, and kill the rest after STOP_GRACE_S."""
    if process.poll() is None:
        _signal(process, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_GRACE_S)
    _signal(process, signal.SIGKILL)
    process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # the whole group has ended
        os.killpg(process.pid, number)


class CheckpointWriter:
    """Writes the 0.5B checkpoint in a process while the first steps run; entering starts it, leaving stops it."""

    def __init__(self, family: str, tiny: bool, needed: bool) -> None:
        """Nothing is written for `tiny` runs, if no step needs it, or if an earlier run has written it."""
        self.directory = ROOT / "models" / "tiny" if tiny else CHECKPOINTS[family]
        self._family = family
        self._needed = needed and not self.directory.exists()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if self._needed:
            command = [sys.executable, "-m", "benchmarks.gpu_check.checkpoint", self._family, str(self.directory)]
            self._process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            _end(self._process)

    def wait(self) -> None:
        """Wait until the checkpoint is written; if it is missing, the steps that load it fail."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(CHECKPOINT_WAIT_S)


def card_name(device: str) -> str:
    """Return the GPU's name, memory and driver, or the name of the processor."""
    if device == "cpu":
        return f"CPU, {_processor()}"
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"{device} (nvidia-smi failed: {type(error).__name__})"
    return "; ".join(answer.strip().splitlines())


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "unknown processor"
