"""What decoding costs, one thread: (a) by way of streaming, (b) by batch size.

    python -m benchmarks.decode [--model DIR] [--seconds 10] [--prompt-seconds 3] [--batches 1 2 4] [--costs FILE]

Without --model the 0.5B layout with random weights. Tokens and voice are made up: time does not depend on what is said.
The prompt is part of the work, not of the speech. `--costs` keeps the figures for the clocked backend. Ratios are to be
compared, times are this machine's.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.official.checkpoint import write_checkpoint
from services.common.modeldir import open_model_dir
from services.decode.backends import CostModel, Hop
from services.decode.chunks import ChunkPlan, HopPolicy
from services.decode.state import StreamSpec
from services.decode.torch_backend import Precision, TorchBackend

CHUNK = HopPolicy().sizes[0]
TOKEN_RATE = 25


@dataclass
class Way:
    """One way to decode an utterance: CPU seconds of each hop, and the mel frames each one computed."""

    name: str
    hops: list[float]
    frames: list[int]
    lost_state: bool = False
    """Frames were computed again although state was to be kept."""

    @property
    def total(self) -> float:
        return sum(self.hops)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="model directory; default: the 0.5B layout, random weights")
    parser.add_argument("--seconds", type=float, default=10.0, help="speech to decode")
    parser.add_argument("--prompt-seconds", type=float, default=3.0, help="length of the voice's prompt")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 2, 4, 8, 16], help="batch sizes to measure")
    parser.add_argument(
        "--state-bytes", type=int, default=6 * 2**30, help="memory for kept states; too little recomputes"
    )
    parser.add_argument("--costs", type=Path, help="write a cost file for the clocked backend here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with model_directory(options.model) as directory:
        cached = TorchBackend(open_model_dir(directory), state_bytes=options.state_bytes)
        cached.warm_up()
        context = cached.vocoder.context
        print(f"{options.model or '0.5B layout'}: vocoder context {context.left} frames left, {context.right} right")
        recomputing = TorchBackend(open_model_dir(directory), state_bytes=0)
        recomputing.vocoder.context = context
        ways = measure_ways(cached, recomputing, int(options.seconds * TOKEN_RATE), int(options.prompt_seconds * 25))
        print_ways(ways, options.seconds)
        del cached, recomputing
        batches = measure_batches(directory, options.batches, options.state_bytes)
    if options.costs:
        costs = fit([*ways.values()], batches)
        options.costs.write_text(json.dumps(asdict(replace(costs, holdback_frames=context.right)), indent=2) + "\n")
        print(f"wrote {options.costs}")


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


def measure_ways(cached: TorchBackend, recomputing: TorchBackend, count: int, prompt: int) -> dict[str, Way]:
    """(a) One utterance of `count` tokens decoded in every way, one after the other."""
    rng = np.random.default_rng(0)
    tokens = [int(token) for token in rng.integers(0, cached.format.vocab_size, count)]
    spec = made_up_voice(cached, prompt, rng)
    known = replace(spec, voice="known")
    decode("", cached, known, tokens[:CHUNK], steady)
    made = [
        decode("one shot, full attention", cached, replace(spec, plan=ChunkPlan.whole()), tokens, lambda hop: count),
        decode("one shot, chunk-causal", recomputing, spec, tokens, lambda hop: count),
        decode("cached, hops of 25, new voice", cached, spec, tokens, steady),
        decode("cached, hops of 25, known voice", cached, known, tokens, steady),
        decode("cached, growing hops", cached, spec, tokens, growing),
        decode("recomputed, hops of 25", recomputing, spec, tokens, steady),
        decode("recomputed, growing hops", recomputing, spec, tokens, growing),
    ]
    return {way.name: way for way in made}


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


def decode(
    name: str, backend: TorchBackend, spec: StreamSpec, tokens: list[int], hop_tokens: Callable[[int], int]
) -> Way:
    """CPU seconds of each hop of one utterance; the first one holds the prompt."""
    state, recomputed = backend.open(spec), backend.counts().recomputed_frames
    prompt, plan = state.flow.prompt, spec.plan
    end, way = prompt, Way(name, [], [])
    while end < prompt + len(tokens):
        end = min(prompt + len(tokens), plan.border_at_least(end + hop_tokens(len(way.hops))))
        way.frames.append(backend.format.frames_per_token * (end - backend.kept_tokens(state)))
        way.hops.append(run(backend, [Hop(state, tokens, end, final=True)]))
    way.lost_state = backend.flow.pool.blocks > 0 and backend.counts().recomputed_frames > recomputed
    return way


def run(backend: TorchBackend, hops: Sequence[Hop]) -> float:
    """CPU seconds of one batch."""
    began = time.thread_time()
    results = backend.run(hops, beat=lambda: None)
    seconds = time.thread_time() - began
    for audio in results:
        if isinstance(audio, Exception):
            raise audio
    return seconds


def print_ways(ways: dict[str, Way], seconds: float) -> None:
    for way in ways.values():
        if way.lost_state:
            print(f"{way.name}: states did not fit in memory, so this is no figure of keeping them; see --state-bytes")
        hops = " ".join(f"{hop:.2f}" for hop in way.hops)
        print(f"{way.name:32} {way.total:7.2f} s, {way.total / seconds:5.2f} s per s;  per hop {hops}")
    cached = ways["cached, hops of 25, new voice"]
    known = ways["cached, hops of 25, known voice"]
    grown = ways["cached, growing hops"]
    rows = (
        ("cached / recomputed, hops of 25", cached.total / ways["recomputed, hops of 25"].total, 0.25),
        ("cached / recomputed, growing hops", grown.total / ways["recomputed, growing hops"].total, 0.65),
        ("cached / one shot, chunk-causal", cached.total / ways["one shot, chunk-causal"].total, 1.3),
        ("last hop / second hop, cached", cached.hops[-1] / cached.hops[1] if len(cached.hops) > 1 else 1.0, 1.5),
        ("first hop, known / new voice", known.hops[0] / cached.hops[0], 0.65),
    )
    for name, ratio, wanted in rows:
        print(f"{name:36} {ratio:.3f}  (wanted: at most {wanted}){'' if ratio <= wanted else '  MISSED'}")
    print(f"load average {' '.join(f'{load:.1f}' for load in os.getloadavg())} on {os.cpu_count()} cores")


def measure_batches(directory: Path, sizes: Sequence[int], state_bytes: int) -> list[tuple[int, int, float]]:
    """(b) The same chunk of a known voice for so many streams at once: (streams, frames computed, CPU seconds).

    States are kept in bfloat16, so that 16 of them fit beside other work.
    """
    backend = TorchBackend(
        open_model_dir(directory), precision=Precision(state=torch.bfloat16), state_bytes=state_bytes
    )
    rng = np.random.default_rng(0)
    tokens = [int(token) for token in rng.integers(0, backend.format.vocab_size, 2 * CHUNK)]
    spec = replace(made_up_voice(backend, CHUNK + 3, rng), voice="known")
    decode("", backend, spec, tokens, steady)
    results = []
    for size in sizes:
        states = [backend.open(spec) for _ in range(size)]
        seconds = run(backend, [Hop(state, tokens, 2 * CHUNK, final=False) for state in states])
        results.append((size, size * 2 * CHUNK, seconds))
        alone = results[0][2] / results[0][0]
        print(f"batch {size:3}: {seconds:6.2f} s, {seconds / size:.2f} s per stream ({seconds / size / alone:.2f} ×)")
    return results


def fit(ways: Sequence[Way], batches: Sequence[tuple[int, int, float]]) -> CostModel:
    """The plane through all measured batches, no cost below zero."""
    points = [(1, frames, seconds) for way in ways for frames, seconds in zip(way.frames, way.hops, strict=True)]
    points += batches
    rows = np.array([(1.0, streams, frames) for streams, frames, _ in points])
    seconds = np.array([second for _, _, second in points])
    used = [0, 1, 2]
    while True:  # drop the most negative cost and fit the others again
        costs = np.linalg.lstsq(rows[:, used], seconds, rcond=None)[0]
        if (costs >= 0).all():
            break
        used.pop(int(np.argmin(costs)))
    found = dict.fromkeys(range(3), 0.0) | dict(zip(used, costs.tolist(), strict=True))
    return CostModel(batch_s=round(found[0], 6), stream_s=round(found[1], 6), frame_s=round(found[2], 8))


if __name__ == "__main__":
    main()
