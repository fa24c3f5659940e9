"""One step in a process of its own; the runner starts it: `python -m benchmarks.gpu_check.step_process NAME ...`.

Exit status: 0 when the step succeeded, 1 when it failed. The file `--failure` then says why.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.gpu_check.check import Check
from benchmarks.gpu_check.steps import STEPS


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=[step.name for step in STEPS])
    parser.add_argument("--device", required=True)
    parser.add_argument("--tiny", action="store_true")
    for folder in ("checkpoint", "out", "record", "failure"):
        parser.add_argument(f"--{folder}", type=Path, required=True)
    options = parser.parse_args()
    check = Check(options.device, options.tiny, options.checkpoint, options.out, options.record)
    if not check.on_gpu:
        torch.set_num_threads(1)  # threads that wait for each other make a busy machine many times slower
    step = next(step for step in STEPS if step.name == options.name)
    try:
        # Imported here, so that a package which one step lacks does not fail the others.
        run: Callable[[Check], None] = getattr(importlib.import_module(f"{__package__}.{step.module}"), step.name)
        run(check)
    except Exception as error:  # noqa: BLE001 - whatever fails in a step is the step's result
        traceback.print_exc()
        check.failures.insert(0, f"{type(error).__name__}: {str(error)[:400]}")
    options.failure.write_text("; ".join(check.failures), encoding="utf-8")
    return 1 if check.failures else 0


if __name__ == "__main__":
    sys.exit(main())
