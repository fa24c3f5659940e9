"""Step time and tokens per second of the llm engine against batch size: `python benchmarks/llm.py --help`.

`--costs FILE` also writes what the clocked backend needs to keep this machine's time (services/llm/backends.py); the
files in services/llm/costs were made that way.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from services.common.modeldir import ModelDir, open_model_dir
from services.llm.backends import CostModel
from services.llm.layout import Prompt
from services.llm.model import load_speech_lm
from services.llm.scheduler import EngineLimits, Scheduler
from services.llm.sequence import Request, SamplingOptions, Sequence
from services.llm.torch_backend import TorchBackend

PROMPT_TOKENS = 75
"""Three seconds of prompt speech."""
TEXT_IDS = 30


def main() -> None:
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    model_dir = open_model_dir(args.model_dir)
    model = load_speech_lm(model_dir, args.device, getattr(torch, args.dtype))
    backend = TorchBackend(model)
    limits = EngineLimits(max_running=max(args.batches), total_tokens=max(args.batches) * 1024, max_request_tokens=1024)
    backend.reserve(limits.num_blocks, limits.block_size)
    bench = Bench(model_dir, backend, limits)
    print(
        f"{args.model_dir}, {args.device}, {args.dtype}, {torch.get_num_threads()} thread(s), {args.steps} steps each"
    )
    print("batch  step p50 ms  p10 ms  p95 ms  tokens/s  x batch 1")
    results = []
    for batch in args.batches:
        steps = bench.decode(batch, args.steps)
        p10, p50, p95 = np.percentile(steps, [10, 50, 95]) * 1e3
        results.append((batch, p50 / 1e3))
        gain = (batch / p50) / (results[0][0] / results[0][1] / 1e3)
        print(f"{batch:>5} {p50:>12.2f} {p10:>7.2f} {p95:>7.2f} {batch / p50 * 1e3:>9.0f} {gain:>10.2f}")
    prefill = statistics.median(bench.prefill() for _ in range(9))
    print(f"prefill {prefill * 1e6:.0f} us per row")
    if args.costs:
        args.costs.write_text(json.dumps(asdict(fit(results, prefill)), indent=2) + "\n", encoding="utf-8")
        print(f"wrote {args.costs}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model-dir", type=Path, default=Path("models/tiny"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--threads", type=int, default=1, help="0: torch's own choice")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--costs", type=Path, help="write a cost file here")
    return parser.parse_args()


class Bench:
    """Plays the engine's step without its thread."""

    def __init__(self, model_dir: ModelDir, backend: TorchBackend, limits: EngineLimits) -> None:
        self.model_dir, self.backend, self.limits = model_dir, backend, limits

    def prefill(self) -> float:
        """Seconds per row of a prompt fed alone, the first token's sampling included."""
        scheduler = Scheduler(self.limits)
        sequence = self._add(scheduler, 0)
        rows = sequence.pending
        return self._step(scheduler) / rows

    def decode(self, batch: int, steps: int) -> list[float]:
        """Seconds of each step in which `batch` sequences decode."""
        scheduler = Scheduler(self.limits)
        sequences = [self._add(scheduler, number) for number in range(batch)]
        while any(sequence.pending != 1 for sequence in sequences):
            self._step(scheduler)
        return [self._step(scheduler) for _ in range(steps)]

    def _add(self, scheduler: Scheduler, number: int) -> Sequence:
        prompt = Prompt((), tuple(range(PROMPT_TOKENS)))
        request = Request(tuple(range(TEXT_IDS)), prompt, SamplingOptions(seed=number))
        sequence = Sequence(request, self.model_dir, self.limits.max_request_tokens, number)
        scheduler.add(sequence)
        return sequence

    def _step(self, scheduler: Scheduler) -> float:
        start = time.perf_counter()
        work = scheduler.schedule()
        tokens = self.backend.step(work)
        seconds = time.perf_counter() - start
        for item, token in zip(work, tokens, strict=True):
            item.sequence.computed += item.count
            if token is not None:
                # An end-of-speech id counts as speech id 0 here, so that the batch keeps its size.
                item.sequence.accept(token % self.model_dir.llm.speech_tokens)
        return seconds


def fit(results: list[tuple[int, float]], prefill: float) -> CostModel:
    """The straight line through the measured step times."""
    batches, steps = np.array(results).T
    slope, base = np.polyfit(batches, steps, 1) if len(results) > 1 else (0.0, steps[0])
    return CostModel(
        step_s=round(max(float(base), 0.0), 6),
        step_s_per_sequence=round(max(float(slope), 0.0), 7),
        prefill_s_per_token=round(prefill, 8),
    )


if __name__ == "__main__":
    main()
