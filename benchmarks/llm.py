"""Measures step time and tokens per second of the llm engine by batch size: `python -m benchmarks.llm --help`.

It compares each step with the floor (bytes of the weights divided by the measured memory bandwidth: no step that reads
every weight once can be faster) and, if transformers is installed, with its plain decode loop over the same weights. On
a CPU in float32 a step is one ONNX Runtime graph, as in the service; the column "operations" is the same step in single
operations, which take turns with it. On a GPU it also measures the bare replay of the step's CUDA graph. On one CPU
thread times are processor time, so that other programs on the machine hardly affect them. `--costs FILE` writes this
machine's costs for the simulated backend (services/llm/engine/backends.py), as in services/llm/costs. `--programs` runs
the steps on a CPU in the form of a GPU, to separate the host's part of a step from the device's. `--count` only counts
a GPU's kernels and bytes per step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from dataclasses import asdict
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from benchmarks.floor import Clock, clock_of, memory_bandwidth
from benchmarks.llm_ops import CONTEXT, count_step, estimate_ms
from benchmarks.llm_peers import FULL_SIZE, TransformersLoop, random_model, step_bytes
from services.common.checkpoint.model_dir import ModelDir, open_model_dir
from services.llm.engine.backends import CostModel
from services.llm.engine.layout import Prompt
from services.llm.engine.scheduler import EngineLimits, Scheduler
from services.llm.engine.sequence import Request, SamplingOptions, Sequence
from services.llm.loading import PREFILL_SIZES, fused_kernels
from services.llm.model.kernels import PLAIN, StepKernels
from services.llm.model.model import SpeechLM, load_speech_lm
from services.llm.model.torch_backend import TorchBackend, TorchOptions

PROMPT_TOKENS = 75
"""Three seconds of prompt speech."""
TEXT_IDS = 30
REQUEST_TOKENS = 1024
TURNS = 4
"""How often two ways to run a step take turns."""
TINY = Path(__file__).parents[1] / "models" / "tiny"


def main() -> None:
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    if args.count:
        for dtype in args.dtypes:
            print_counts(make_model(args, getattr(torch, dtype), device)[1], args, dtype)
        return
    clock = clock_of(device)
    bandwidth = memory_bandwidth(device, clock)
    load = os.getloadavg()[0]
    print(f"memory bandwidth {bandwidth / 1e9:.1f} GB/s, {torch.get_num_threads()} thread(s), load average {load:.1f}")
    for dtype in args.dtypes:
        model_dir, model = make_model(args, getattr(torch, dtype), device)
        print(f"\n{'0.5B, random weights' if args.full_size else args.model_dir}, {args.device}, {dtype}", end="")
        print(", int8 weights" * args.int8_weights + ", int8 K/V" * args.int8_kv)
        measure(args, model_dir, model, step_bytes(model) / bandwidth, clock)


def make_model(args: argparse.Namespace, dtype: torch.dtype, device: torch.device) -> tuple[ModelDir, SpeechLM]:
    if args.full_size:
        model_dir, model = random_model(open_model_dir(TINY), FULL_SIZE, dtype, int8_weights=args.int8_weights)
        return model_dir, model.to(device)
    model_dir = open_model_dir(args.model_dir)
    return model_dir, load_speech_lm(model_dir, device, dtype, int8_weights=args.int8_weights)


def measure(args: argparse.Namespace, model_dir: ModelDir, model: SpeechLM, floor: float, clock: Clock) -> None:
    peer = None if args.no_transformers else transformers_loop(model, clock)
    kernels = PLAIN
    if args.device.startswith("cuda"):
        with torch.cuda.device(args.device):
            kernels = fused_kernels(model, int8_kv=args.int8_kv)
    results: list[tuple[int, float]] = []
    as_graph = args.device == "cpu" and model.dtype == torch.float32 and not (args.programs or args.int8_weights)
    print(
        "batch  step p10 ms    p50    p95  tokens/s  x batch 1  x floor"
        "  operations   gain  host ms  replay ms  transformers  tokens/s"
    )
    for batch in args.batches:
        programs = (batch,) if args.programs or args.device.startswith("cuda") else ()
        bench = Bench(model_dir, model, args, batch, clock, programs, kernels, cpu_graph=as_graph)
        operations = Bench(model_dir, model, args, batch, clock) if as_graph else None
        times, others = decode_in_turn(bench, operations, batch, args.steps)
        p10, p50, p95 = np.percentile(times, [10, 50, 95])
        # On a shared machine the fastest tenth is a better measure of the code than the median.
        results.append((batch, p10))
        gain = (batch / p10) / (results[0][0] / results[0][1])
        line = f"{batch:>5} {p10 * 1e3:>12.2f} {p50 * 1e3:>6.2f} {p95 * 1e3:>6.2f} {batch / p10:>9.0f} {gain:>10.2f}"
        plain = float(np.percentile(others, 10)) if others else None
        line += f" {p10 / floor:>8.1f} "
        line += f"{'-':>11} {'-':>6}" if plain is None else f"{plain * 1e3:>11.2f} {plain / p10:>6.2f}"
        line += f" {bench.host_ms(batch, args.steps):>8} {bench.replay_ms():>10}"
        if peer is not None:
            theirs = float(np.percentile(peer.decode(batch, PROMPT_TOKENS + TEXT_IDS + 2, args.steps), 10))
            line += f" {theirs * 1e3:>13.2f} {batch / theirs:>9.0f}"
        print(line, flush=True)
    prefill = statistics.median(bench.prefill() for _ in range(5))
    print(f"floor {floor * 1e3:.2f} ms per step; prefill {prefill * 1e6:.0f} us per row")
    if args.costs:
        args.costs.write_text(json.dumps(asdict(fit(results, prefill)), indent=2) + "\n", encoding="utf-8")
        print(f"wrote {args.costs}")


def decode_in_turn(bench: Bench, other: Bench | None, batch: int, steps: int) -> tuple[list[float], list[float]]:
    """Return the seconds of the decode steps of both; they take turns, so that the machine's speed is the same."""
    times: list[float] = []
    others: list[float] = []
    rounds = 1 if other is None else TURNS
    for _ in range(rounds):
        times += bench.decode(batch, -(-steps // rounds))
        if other is not None:
            others += other.decode(batch, -(-steps // rounds))
    return times, others


def print_counts(model: SpeechLM, args: argparse.Namespace, dtype: str) -> None:
    print(f"one recorded step in {dtype} at {CONTEXT} positions, counted on a CPU with each Triton kernel as one")
    print("batch  kernels  read-backs  MB moved  H100 ms, estimate  kernels by part")
    for batch in args.batches:
        count = count_step(model, batch, int8_kv=args.int8_kv)
        kernels, moved = count.kernels.total(), count.bytes.total()
        parts = ", ".join(f"{number} {name}" for name, number in count.kernels.most_common())
        least, most = estimate_ms(count)
        line = f"{batch:>5} {kernels:>8} {count.read_backs:>11} {moved / 1e6:>9.1f}"
        print(f"{line}       {least:.2f} to {most:.2f}  {parts}")


def transformers_loop(model: SpeechLM, clock: Clock) -> TransformersLoop | None:
    try:
        return TransformersLoop(model, clock)
    except (ImportError, ValueError) as error:
        print(f"no comparison with transformers: {error}")
        return None


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.llm",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model-dir", type=Path, default=TINY)
    parser.add_argument("--full-size", action="store_true", help="the 0.5B layout with random weights instead")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtypes", nargs="+", default=["float32"], choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--int8-weights", action="store_true")
    parser.add_argument("--int8-kv", action="store_true")
    parser.add_argument("--threads", type=int, default=1, help="0: torch's own choice")
    most = 256 if torch.cuda.is_available() else 64
    batches = [2**power for power in range(most.bit_length())]
    parser.add_argument("--batches", type=int, nargs="+", default=batches)
    parser.add_argument("--steps", type=int, default=40)
    num_steps = 8 if torch.cuda.is_available() else 1
    parser.add_argument("--num-steps", type=int, default=num_steps, help="steps per run of a program")
    parser.add_argument("--programs", action="store_true", help="run steps as programs on a CPU too")
    parser.add_argument("--count", action="store_true", help="only count a GPU's kernels and bytes per step")
    parser.add_argument("--no-transformers", action="store_true")
    parser.add_argument("--costs", type=Path, help="write a cost file to this path")
    args = parser.parse_args()
    if args.count and args.device != "cpu":
        parser.error("--count needs --device cpu")
    return args


class Bench:
    """Runs the engine's steps without its thread."""

    def __init__(
        self,
        model_dir: ModelDir,
        model: SpeechLM,
        args: argparse.Namespace,
        batch: int,
        clock: Clock,
        programs: tuple[int, ...] = (),
        kernels: StepKernels = PLAIN,
        *,
        cpu_graph: bool = False,
    ) -> None:
        self.model_dir, self.num_steps = model_dir, args.num_steps
        self.limits = EngineLimits(
            max_running=batch, total_tokens=batch * REQUEST_TOKENS, max_request_tokens=REQUEST_TOKENS
        )
        prefill = PREFILL_SIZES if programs else ()
        options = TorchOptions(args.int8_kv, kernels, programs, REQUEST_TOKENS, prefill, cpu_graph=cpu_graph)
        self.clock = clock
        self.excluded = 0.0
        """Seconds so far that do not count as time of a step."""
        self.backend = TorchBackend(model, options=options)
        self.backend.reserve(self.limits.num_blocks, self.limits.block_size)

    def host_ms(self, batch: int, steps: int) -> str:
        """Return the host's part of a step, measured without the program's computation; a dash without a program."""
        program = self.backend.latest_program
        if program is None:
            return "-"

        def advance() -> None:
            """End a step as the device does, so that the next run continues this one."""
            start = self.clock()
            program.advance()
            self.excluded += self.clock() - start

        with mock.patch.object(program, "replay", advance):
            return f"{np.percentile(self.decode(batch, steps), 10) * 1e3:.2f}"

    def replay_ms(self, steps: int = 50) -> str:
        """Return the time of the bare replay of the latest step's graph; a dash without a graph."""
        program = self.backend.latest_program
        if program is None or not program.recorded:
            return "-"
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            program.replay()
        torch.cuda.synchronize()
        return f"{(time.perf_counter() - start) / steps * 1e3:.2f}"

    def prefill(self) -> float:
        """Return the seconds per row of a prompt fed alone, including the sampling of the first token."""
        scheduler = Scheduler(self.limits)
        sequence = self._add(scheduler, 0)
        rows = sequence.pending
        return self._step(scheduler) / rows

    def decode(self, batch: int, steps: int) -> list[float]:
        """Return the seconds of each decode step of `batch` sequences, including the host's work around it."""
        scheduler = Scheduler(self.limits)
        sequences = [self._add(scheduler, number) for number in range(batch)]
        scheduler.schedule()  # assigns the blocks
        for sequence in sequences:
            # As after the prompt: a step's time does not depend on the values of keys and values.
            sequence.computed = len(sequence.layout.inputs) - 1
        self._step(scheduler)
        return [self._step(scheduler) for _ in range(steps)]

    def _add(self, scheduler: Scheduler, number: int) -> Sequence:
        prompt = Prompt((), tuple(range(PROMPT_TOKENS)))
        request = Request(tuple(range(TEXT_IDS)), prompt, SamplingOptions(seed=number))
        sequence = Sequence(request, self.model_dir, self.limits.max_request_tokens, number)
        scheduler.add(sequence)
        return sequence

    def _step(self, scheduler: Scheduler) -> float:
        start = self.clock() - self.excluded
        work = scheduler.schedule(self.num_steps)
        tokens = self.backend.step(work)
        for item, drawn in zip(work, tokens, strict=True):
            item.sequence.computed += item.count + max(0, len(drawn) - 1)
            # An end-of-speech id counts as speech id 0 here, so that the batch keeps its size.
            item.sequence.accept_all([token % self.model_dir.llm.speech_tokens for token in drawn])
        return (self.clock() - self.excluded - start) / max(map(len, tokens))


def fit(results: list[tuple[int, float]], prefill: float) -> CostModel:
    """Fit a straight line to the measured step times."""
    batches, steps = np.array(results).T
    slope, base = np.polyfit(batches, steps, 1) if len(results) > 1 else (0.0, steps[0])
    return CostModel(
        step_s=round(max(float(base), 0.0), 6),
        step_s_per_sequence=round(max(float(slope), 0.0), 7),
        prefill_s_per_token=round(prefill, 8),
    )


if __name__ == "__main__":
    main()
