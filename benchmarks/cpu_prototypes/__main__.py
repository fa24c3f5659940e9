"""Measures faster ways to run a step on a CPU, each next to the single operations in one run.

  python -m benchmarks.cpu_prototypes                  the embedded voice
  python -m benchmarks.cpu_prototypes --full-size      the 0.5B layout with random weights
  python -m benchmarks.cpu_prototypes --only llm

The llm's decode step as one graph in ONNX Runtime and the estimator's step with joined operations are the services' own
(`LIGHTTTS_LLM_CPU_GRAPH`, `LIGHTTTS_DECODE_CPU_STEP`). `estimator_step` is a prototype that no service uses, for one
stream at a time: an Euler step as one graph. It prints how much faster they are and how far the results differ. Times
are processor time of one thread; variants take turns, and the fastest tenth of the llm's steps and the fastest of each
estimator hop count, so that other programs on the machine disturb the ratios little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.cpu_prototypes.estimator_step import GraphEstimator
from benchmarks.decode import CHUNK, TOKEN_RATE, load_average, made_up_voice, model_directory
from benchmarks.floor import clock_of
from benchmarks.llm import TINY, Bench, make_model
from services.common.checkpoint.model_dir import open_model_dir
from services.decode.engine.backends import Hop
from services.decode.engine.torch_backend import TorchBackend as DecodeBackend
from services.decode.estimators.cpu_step import JoinedEstimator
from services.decode.flow.estimator import EstimatorNetwork
from services.decode.flow.forward_pass import Pass
from services.decode.flow.solver import Estimator
from services.decode.flow.unet import UNet
from services.llm.engine.backends import Backend
from services.llm.engine.scheduler import ScheduledSequence

CURRENT = "single operations"
STATE_BYTES = 6 * 2**30
ESTIMATORS: dict[str, Callable[[UNet], Estimator]] = {
    CURRENT: lambda network: network,
    "joined operations": JoinedEstimator,
    "one ONNX graph": GraphEstimator,
}


class RecordedBackend:
    """Keeps the tokens of every step."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.tokens: list[list[int]] = []

    def step(self, batch: Sequence[ScheduledSequence]) -> list[Sequence[int]]:
        drawn = self._backend.step(batch)
        self.tokens.append([token for row in drawn for token in row])
        return drawn


def compare_llm(options: argparse.Namespace) -> None:
    """Decode steps of one sequence, by single operations and as one graph."""
    # What benchmarks.llm reads of its own arguments.
    given = argparse.Namespace(
        model_dir=TINY,
        full_size=options.full_size,
        device="cpu",
        int8_weights=False,
        int8_kv=False,
        num_steps=1,
        programs=False,
    )
    model_dir, model = make_model(given, torch.float32, torch.device("cpu"))
    clock = clock_of(torch.device("cpu"))
    seconds: dict[str, list[float]] = {}
    tokens: dict[str, list[list[int]]] = {}
    benches: dict[str, Bench] = {}
    for name, cpu_graph in ((CURRENT, False), ("one ONNX graph", True)):
        bench = benches[name] = Bench(model_dir, model, given, 1, clock, cpu_graph=cpu_graph)
        bench.decode(1, 3)  # the first steps allocate
    for _ in range(options.repeats):
        for name, bench in benches.items():
            backend = bench.backend
            recorded = RecordedBackend(backend)
            bench.backend = recorded  # type: ignore[assignment]
            seconds.setdefault(name, []).extend(bench.decode(1, options.steps))
            bench.backend = backend
            tokens[name] = recorded.tokens
    print(f"llm, one decode step of one sequence, {options.steps} steps, {options.repeats} repeats")
    fastest = {name: float(np.percentile(times, 10)) for name, times in seconds.items()}
    for name, best in fastest.items():
        same = sum(mine == theirs for mine, theirs in zip(tokens[name], tokens[CURRENT], strict=True))
        print(
            f"  {name:22} p10 {best * 1e3:7.2f} ms  {fastest[CURRENT] / best:5.2f} x as fast  "
            f"{same} of {len(tokens[name])} tokens as with single operations",
            flush=True,
        )


class TimedEstimator:
    """Adds up the processor time of an estimator's calls."""

    def __init__(self, estimator: Estimator) -> None:
        self._estimator, self.dtype = estimator, estimator.dtype
        self.seconds = 0.0
        self.calls = 0

    def __call__(self, x: Tensor, time_terms: list[Tensor], frames: Pass) -> Tensor:
        began = time.thread_time()
        velocity = self._estimator(x, time_terms, frames)
        self.seconds += time.thread_time() - began
        self.calls += 1
        return velocity


class Variant:
    """One estimator in a decode backend, and the fastest times of each hop so far."""

    def __init__(self, directory: Path, make: Callable[[UNet], Estimator]) -> None:
        def timed(network: EstimatorNetwork) -> TimedEstimator:
            if not isinstance(network, UNet):
                raise SystemExit("the prototypes are of CosyVoice2's estimator")
            self.estimator = TimedEstimator(make(network))
            return self.estimator

        model = open_model_dir(directory)
        self.backend = DecodeBackend(model, state_bytes=STATE_BYTES, make_estimator=timed)
        self.audio: NDArray[np.float32] = np.zeros(0, np.float32)
        self.steps: list[float] = []
        """Seconds of one Euler step, per hop."""
        self.hops: list[float] = []
        """Seconds of everything, per hop."""

    def decode(self, count: int, prompt: int) -> None:
        """Decode one utterance of `count` tokens in hops of one chunk; all but the first append to a cached state."""
        rng = np.random.default_rng(0)
        tokens = [int(token) for token in rng.integers(0, self.backend.format.vocab_size, count)]
        spec = replace(made_up_voice(self.backend, prompt, rng), seed=1)
        state = self.backend.open(spec)
        end, audio, steps, hops = prompt, [], list[float](), list[float]()
        while end < prompt + count:
            end = min(prompt + count, spec.plan.boundary_at_or_after(end + CHUNK))
            self.estimator.seconds, self.estimator.calls = 0.0, 0
            began = time.thread_time()
            (result,) = self.backend.run([Hop(state, tokens, end, final=True)], beat=lambda: None)
            hops.append(time.thread_time() - began)
            steps.append(self.estimator.seconds / self.estimator.calls)
            if isinstance(result, Exception):
                raise result
            audio.append(result.samples)
        self.audio = np.concatenate(audio)
        self.steps = [min(pair) for pair in zip(steps, self.steps or steps, strict=True)]
        self.hops = [min(pair) for pair in zip(hops, self.hops or hops, strict=True)]

    def means(self) -> tuple[float, float]:
        """Seconds of an Euler step and of a whole hop, over the hops that append to a cached state."""
        return float(np.mean(self.steps[1:])), float(np.mean(self.hops[1:]))


def compare_estimator(options: argparse.Namespace) -> None:
    """Hops of one stream with kept state, by single operations and both prototypes."""
    lengths = int(options.seconds * TOKEN_RATE), int(options.prompt_seconds * TOKEN_RATE)
    with model_directory(None if options.full_size else TINY) as directory:
        variants = {name: Variant(directory, make) for name, make in ESTIMATORS.items()}
        for _ in range(options.repeats):
            for variant in variants.values():
                variant.decode(*lengths)
    print(f"decode, hops of {CHUNK} tokens that append to a cached state, {options.seconds:g} s of speech")
    current_step, current_hop = variants[CURRENT].means()
    for name, variant in variants.items():
        step, hop = variant.means()
        worst = float(np.abs(variant.audio - variants[CURRENT].audio).max())
        print(
            f"  {name:22} estimator step {step * 1e3:7.2f} ms, {current_step / step:5.2f} x as fast; "
            f"hop {hop * 1e3:7.1f} ms, {current_hop / hop:5.2f} x; largest difference of a sample {worst:.1e}",
            flush=True,
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu_prototypes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", choices=("llm", "estimator"), help="one of the two (default: both)")
    parser.add_argument(
        "--full-size", action="store_true", help="0.5B layout, random weights (default: embedded voice)"
    )
    parser.add_argument("--repeats", type=int, default=3, help="times that everything is measured (default: 3)")
    parser.add_argument("--steps", type=int, default=60, help="decode steps of the llm per repeat (default: 60)")
    parser.add_argument("--seconds", type=float, default=6.0, help="speech to decode per repeat (default: 6)")
    parser.add_argument("--prompt-seconds", type=float, default=3.0, help="length of the voice's prompt (default: 3)")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    print(load_average())
    if options.only != "estimator":
        compare_llm(options)
    if options.only != "llm":
        compare_estimator(options)
    print(load_average())


if __name__ == "__main__":
    main()
