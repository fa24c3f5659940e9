"""What decoding costs, one thread: (a) by way of streaming, (b) by batch size.

    python -m benchmarks.decode [--model DIR] [--seconds 10] [--prompt-seconds 3] [--repeats 2] [--costs FILE]

Without --model the 0.5B layout with random weights. Tokens and voice are made up: time does not depend on what is said.
The prompt is part of the work, not of the speech. Seconds are processor time. All ways are decoded by turns,
`--repeats` times, and the fastest of every hop counts: what else the machine does then disturbs ways and ratios little.
`--costs` writes the figures' fit for the simulated backend.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.decode_costs import Measured, errors, fit
from benchmarks.floor import count_flops, matmul_rate, memory_bandwidth, weight_bytes
from benchmarks.official.checkpoint import write_checkpoint
from services.common.checkpoint.model_dir import open_model_dir
from services.decode.engine.backends import Hop
from services.decode.engine.hops import HopPolicy
from services.decode.engine.state import StreamSpec
from services.decode.engine.torch_backend import TorchBackend, TorchState

CHUNK = HopPolicy().sizes[0]
TOKEN_RATE = 25
CPU = torch.device("cpu")

HopTokens = Callable[[int], int]
"""How many tokens a stream's hop of this number takes."""


@dataclass
class Way:
    """One way to decode an utterance, hop by hop."""

    name: str
    hops: list[Measured]
    lost_state: bool = False
    """Frames were computed again although state was to be kept."""

    @property
    def seconds(self) -> list[float]:
        return [hop.seconds for hop in self.hops]

    @property
    def total(self) -> float:
        return sum(self.seconds)

    def fastest(self, other: Way) -> Way:
        """The faster of each hop, measured twice."""
        hops = [min(pair, key=lambda hop: hop.seconds) for pair in zip(self.hops, other.hops, strict=True)]
        return Way(self.name, hops, self.lost_state or other.lost_state)


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    with model_directory(options.model) as directory:
        cached = TorchBackend(open_model_dir(directory), state_bytes=options.state_bytes)
        cached.warm_up()
        context = cached.vocoder.context
        print(f"{options.model or '0.5B layout'}: vocoder context {context.left} frames left, {context.right} right")
        recomputing = TorchBackend(open_model_dir(directory), state_bytes=0)
        recomputing.vocoder.context = context
        lengths = int(options.seconds * TOKEN_RATE), int(options.prompt_seconds * TOKEN_RATE)
        ways = measure_ways(cached, recomputing, *lengths, options.repeats)
        print_ways(ways, options.seconds)
        batches = measure_batches(cached, options.batches, options.repeats)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB; {load_average()}")
    measured = [*(hop for way in ways.values() for hop in way.hops), *batches]
    costs = fit(measured, context.right)
    wrong = np.abs(errors(costs, measured))
    print(f"{costs}: off by {np.median(wrong):.0%} in the median of {len(measured)} batches, {wrong.max():.0%} at most")
    if options.costs:
        options.costs.write_text(json.dumps(asdict(costs), indent=2) + "\n", encoding="utf-8")
        print(f"wrote {options.costs}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="model directory; default: the 0.5B layout, random weights")
    parser.add_argument("--seconds", type=float, default=10.0, help="speech to decode")
    parser.add_argument("--prompt-seconds", type=float, default=3.0, help="length of the voice's prompt")
    parser.add_argument("--repeats", type=int, default=2, help="how often everything is measured; the fastest counts")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 2, 4, 8, 16], help="batch sizes to measure")
    parser.add_argument(
        "--state-bytes", type=int, default=6 * 2**30, help="memory for kept states; too little recomputes"
    )
    parser.add_argument("--costs", type=Path, help="write a cost file for the simulated backend here")
    return parser.parse_args()


def load_average() -> str:
    return f"load average {' '.join(f'{load:.1f}' for load in os.getloadavg())} on {os.cpu_count()} cores"


@contextmanager
def model_directory(given: Path | None) -> Iterator[Path]:
    """The directory given, or a temporary one with random weights in official format."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="decode-0.5b-") as temporary:
        directory = Path(temporary) / "random"
        write_checkpoint(directory, parts=("flow", "hift"))
        for graph in ("campplus.onnx", "speech_tokenizer_v2.onnx"):  # looked for, not read
            (directory / graph).touch()
        yield directory


def measure_ways(
    cached: TorchBackend, recomputing: TorchBackend, count: int, prompt: int, repeats: int
) -> dict[str, Way]:
    """(a) One utterance of `count` tokens decoded in every way, one after the other."""
    rng = np.random.default_rng(0)
    tokens = [int(token) for token in rng.integers(0, cached.format.vocab_size, count)]
    spec = made_up_voice(cached, prompt, rng)
    known = replace(spec, voice="known")
    decode("", cached, known, tokens[:CHUNK], steady)
    plans: list[tuple[str, TorchBackend, StreamSpec, HopTokens]] = [
        ("one shot, chunk-causal", recomputing, spec, lambda hop: count),
        ("cached, hops of 25, new voice", cached, spec, steady),
        ("cached, hops of 25, known voice", cached, known, steady),
        ("cached, growing hops", cached, spec, growing),
        ("recomputed, hops of 25", recomputing, spec, steady),
        ("recomputed, growing hops", recomputing, spec, growing),
    ]
    ways: dict[str, Way] = {}
    for number in range(repeats):
        for name, backend, voice, hop_tokens in plans:
            way = decode(name, backend, voice, tokens, hop_tokens)
            ways[name] = way.fastest(ways.get(name, way))
            print(f"round {number + 1} of {repeats}: {name} {way.total:.1f} s", file=sys.stderr, flush=True)
    return ways


def steady(hop: int) -> int:
    return CHUNK


def growing(hop: int) -> int:
    return CHUNK * min(4, 2**hop)


def made_up_voice(backend: TorchBackend, tokens: int, rng: np.random.Generator) -> StreamSpec:
    config = backend.flow.config
    return StreamSpec(
        prompt_tokens=rng.integers(0, config.vocab_size, tokens).astype(np.int32),
        prompt_mel=(2 * rng.standard_normal((2 * tokens, config.output_size)) - 5).astype(np.float32),
        embedding=rng.standard_normal(config.speaker_dim).astype(np.float32),
    )


def decode(name: str, backend: TorchBackend, spec: StreamSpec, tokens: list[int], hop_tokens: HopTokens) -> Way:
    """One utterance hop by hop; the first one holds the prompt."""
    state, recomputed = backend.open(spec), backend.counts().recomputed_frames
    prompt, plan = state.flow.prompt, spec.plan
    end, way = prompt, Way(name, [])
    while end < prompt + len(tokens):
        end = min(prompt + len(tokens), plan.boundary_at_or_after(end + hop_tokens(len(way.hops))))
        way.hops.append(run(backend, [Hop(state, tokens, end, final=True)]))
    way.lost_state = backend.flow.pool.blocks > 0 and backend.counts().recomputed_frames > recomputed
    return way


def run(backend: TorchBackend, hops: Sequence[Hop]) -> Measured:
    """One batch, timed."""
    ratio = backend.format.frames_per_token
    frames = [ratio * (hop.end - backend.kept_tokens(hop.state)) for hop in hops]
    pairs = sum(new * ratio * hop.end for new, hop in zip(frames, hops, strict=True))
    began = time.thread_time()
    results = backend.run(hops, beat=lambda: None)
    seconds = time.thread_time() - began
    for audio in results:
        if isinstance(audio, Exception):
            raise audio
    return Measured(len(hops), sum(frames), pairs, seconds)


def print_ways(ways: dict[str, Way], seconds: float) -> None:
    for way in ways.values():
        if way.lost_state:
            print(f"{way.name}: states did not fit in memory, so this is no figure of keeping them; see --state-bytes")
        each = " ".join(f"{hop:.2f}" for hop in way.seconds)
        print(f"{way.name:32} {way.total:7.2f} s, {way.total / seconds:5.2f} s per s;  per hop {each}")
    cached, known = ways["cached, hops of 25, new voice"], ways["cached, hops of 25, known voice"]
    grown, once = ways["cached, growing hops"], ways["one shot, chunk-causal"]
    hops = cached.seconds
    rows = (
        ("cached / recomputed, hops of 25", cached.total / ways["recomputed, hops of 25"].total, 0.25),
        ("cached / recomputed, growing hops", grown.total / ways["recomputed, growing hops"].total, 0.65),
        ("cached / one shot, chunk-causal", cached.total / once.total, 1.3),
        ("last hop / second hop, cached", hops[-1] / hops[1] if len(hops) > 1 else 1.0, 1.5),
        ("first hop, known / new voice", known.seconds[0] / hops[0], 0.65),
    )
    for name, ratio, wanted in rows:
        print(f"{name:36} {ratio:.3f}  (wanted: at most {wanted}){'' if ratio <= wanted else '  MISSED'}")
    print(load_average(), flush=True)


def measure_batches(backend: TorchBackend, sizes: Sequence[int], repeats: int) -> list[Measured]:
    """(b) The same chunk of a known voice for so many streams at once, beside what no program could beat."""
    rng = np.random.default_rng(0)
    tokens = [int(token) for token in rng.integers(0, backend.format.vocab_size, 2 * CHUNK)]
    spec = replace(made_up_voice(backend, CHUNK + 3, rng), voice="known, one chunk")
    decode("", backend, spec, tokens, steady)

    def hops(count: int) -> list[Hop]:
        states: list[TorchState] = [backend.open(spec) for _ in range(count)]
        return [Hop(state, tokens, 2 * CHUNK, final=False) for state in states]

    rate, bandwidth = matmul_rate(CPU, torch.float32, time.thread_time), memory_bandwidth(CPU, time.thread_time)
    flops, weights = count_flops(lambda: run(backend, hops(1))), hop_weight_bytes(backend)
    print(f"one hop of 25 tokens: {flops / 1e9:.0f} GFLOP; one batch reads {weights / 1e9:.2f} GB of weights")
    print(f"this thread: {rate / 1e9:.0f} GFLOP/s in matrix products, {bandwidth / 1e9:.0f} GB/s of memory")
    fastest: list[Measured] = []
    for size in sizes:
        one = min((run(backend, hops(size)) for _ in range(repeats)), key=lambda batch: batch.seconds)
        fastest.append(one)
        each, alone = one.seconds / size, fastest[0].seconds / fastest[0].streams
        floor = max(flops / rate, weights / bandwidth / size)
        print(
            f"batch {size:3}: {one.seconds:7.3f} s, {each:.3f} s per stream ({each / alone:.2f} × batch {sizes[0]}, "
            f"{each / floor:.1f} × floor {floor:.3f})",
            flush=True,
        )
    return fastest


def hop_weight_bytes(backend: TorchBackend) -> int:
    """Weights that one batch reads: the estimator's at every Euler step, all others once."""
    flow, vocoder = backend.flow, backend.vocoder
    once = weight_bytes(flow.encoder, flow.encoder_proj, vocoder.generator, vocoder.pitch, vocoder.source)
    return once + flow.solver.steps * weight_bytes(flow.estimator)


if __name__ == "__main__":
    main()
