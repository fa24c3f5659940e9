"""Runs the steps one after the other, each as a process with its own time limit."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.gpu_check import results
from benchmarks.gpu_check.processes import CHECKPOINTS, CheckpointWriter, StepRunner, card_name
from benchmarks.gpu_check.results import StepResult
from benchmarks.gpu_check.steps import STEPS

DESCRIPTION = """\
Tests and measures on a GPU what a CPU cannot test. Every step is a process with its own time limit, so that a
step that fails or hangs costs only its own time. Every step updates results.json and results.md in $OUT
(default: gpu_check_out). All steps use random weights of the 0.5B layout. The 3 or 4 GB checkpoint is written to the
temporary folder while the first steps run; later runs use it again.

Exit status: 0 if every step succeeded or was skipped, 1 if one failed, 2 for wrong arguments.
"""
EXAMPLES = """\
examples:
  python -m benchmarks.gpu_check                         everything, about 8 minutes on one H100
  python -m benchmarks.gpu_check kernel llm_exact        these two steps
  python -m benchmarks.gpu_check decode_speed states --family cosyvoice3
  python -m benchmarks.gpu_check --device cpu --tiny     rehearsal without a GPU, with the embedded voice

The step `stack` needs PyTorch and the packages of wheels.txt; the others need torch, numpy, pyyaml and onnx.
docs/benchmarks.md describes how to run everything on a bare GPU machine.
"""


def main() -> int:
    options = arguments()
    out = Path(os.environ.get("OUT", "gpu_check_out")).resolve()
    out.mkdir(parents=True, exist_ok=True)
    card = card_name(options.device)
    named = {step.name: step for step in STEPS}
    chosen = [named[name] for name in dict.fromkeys(options.steps or named)]
    found: list[StepResult] = []
    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # stops the step's process too
    with (
        tempfile.TemporaryDirectory(prefix="gpu-check-") as scratch,
        CheckpointWriter(options.family, options.tiny, any(step.needs_checkpoint for step in chosen)) as checkpoint,
    ):
        runner = StepRunner(options.device, options.tiny, checkpoint.directory, out, Path(scratch))
        for step in chosen:
            if step.needs_checkpoint:
                checkpoint.wait()
            found.append(runner.run(step, options.limit - (time.monotonic() - started)))
            results.write(out, card, found)
            last = found[-1]
            print(f"== {step.name}: {last.outcome} after {last.seconds:.1f} s {last.reason}".rstrip(), flush=True)
    print(f"{time.monotonic() - started:.0f} s in all; results: {out / 'results.md'}")
    return 1 if any(one.failed for one in found) else 0


def arguments() -> argparse.Namespace:
    listed = "\n".join(f"  {step.name:<13} {step.shows} (limit {step.limit_s:.0f} s)" for step in STEPS)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check",
        description=DESCRIPTION,
        epilog=f"steps:\n{listed}\n\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("steps", nargs="*", metavar="STEP", help="steps to run, in this order; default: all")
    parser.add_argument("--device", default="cuda:0", help="device to check: cuda:0, cuda:1 or cpu (default: cuda:0)")
    parser.add_argument(
        "--family",
        choices=list(CHECKPOINTS),
        default="cosyvoice2",
        help="layout of the checkpoint (default: cosyvoice2)",
    )
    parser.add_argument("--tiny", action="store_true", help="use the embedded voice and few repetitions")
    parser.add_argument(
        "--limit", type=float, default=math.inf, metavar="SECONDS", help="end within this time; later steps are skipped"
    )
    options = parser.parse_args()
    unknown = sorted(set(options.steps) - {step.name for step in STEPS})
    if unknown:
        parser.error(f"unknown step {', '.join(unknown)}; choose from {', '.join(step.name for step in STEPS)}")
    if options.device == "cuda":
        options.device = "cuda:0"  # the services' name of the device
    return options


if __name__ == "__main__":
    sys.exit(main())
