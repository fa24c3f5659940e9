"""The context of a step: its run's options and its results."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

TINY = Path(__file__).parents[2] / "models" / "tiny"
"""The embedded voice, which a rehearsal measures instead of the 0.5B layout."""

Value = str | int | float | bool | list[str] | list[int] | list[float]


@dataclass
class Check:
    """One step of one run. Results are written to `record` as soon as they are known, so a timeout loses none."""

    device: str
    tiny: bool
    """Use the embedded voice and few repetitions instead of the 0.5B layout."""
    checkpoint: Path
    """Model directory that the steps load; the embedded voice when `tiny`."""
    out: Path
    """Folder for further files, such as profiles."""
    record: Path
    """One JSON line [name, value] per result."""
    failures: list[str] = field(default_factory=list)
    """Expectations that were not met, in order."""

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    @property
    def compute(self) -> torch.dtype:
        """The workers' default precision on this device."""
        return torch.bfloat16 if self.on_gpu else torch.float32

    def report(self, name: str, value: Value) -> None:
        """Record and print a result; it replaces an earlier one of the same name."""
        print(f"{name}: {value}", flush=True)
        with self.record.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps([name, value]) + "\n")

    def expect(self, name: str, met: bool, found: str = "") -> None:
        """Record an expectation. An unmet one fails the step at its end; the step continues."""
        self.report(name, ("yes" if met else "NO") + (f" ({found})" if found else ""))
        if not met:
            self.failures.append(name)

    def synchronize(self) -> None:
        """Wait for the GPU; do nothing on a CPU."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object]) -> float:
        """Return the wall time of one call in seconds, including the GPU's work."""
        self.synchronize()
        start = time.perf_counter()
        work()
        self.synchronize()
        return time.perf_counter() - start

    def milliseconds(self, work: Callable[[], object], repeats: int = 20, warm_up: int = 3) -> float:
        """Return the median wall time of a call after `warm_up` calls that are not measured; on a CPU, after 1 of 3."""
        if not self.on_gpu:
            repeats, warm_up = 3, 1
        for _ in range(warm_up):
            work()
        times = sorted(self.seconds(work) for _ in range(repeats))
        return round(times[repeats // 2] * 1e3, 3)

    def reserved_mib(self) -> int:
        """Return the largest GPU memory that PyTorch has reserved in this process; 0 on a CPU."""
        return torch.cuda.max_memory_reserved(self.device) >> 20 if self.on_gpu else 0


def name_of(dtype: torch.dtype) -> str:
    """Return the name of a precision: `bfloat16` for torch.bfloat16."""
    return str(dtype).removeprefix("torch.")


def allow_tf32(allowed: bool) -> None:
    """Allow cuDNN's convolutions of float32 tensors to round their inputs to TF32, or forbid it, in this process.

    From torch 2.9 on `allow_tf32` alone leaves convolutions as they are, and torch refuses settings that differ.
    """
    torch.backends.cudnn.allow_tf32 = allowed
    if hasattr(torch.backends, "fp32_precision"):
        for operation in ("conv", "rnn"):
            getattr(torch.backends.cudnn, operation).fp32_precision = "tf32" if allowed else "ieee"
