"""What decoding costs: CPU seconds per second of speech, one thread, by way of streaming.

    python -m benchmarks.decode [--model models/tiny] [--seconds 10] [--prompt-seconds 3]

Tokens and voice are made up: time does not depend on what is said. The prompt is part of the work, not of the speech.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from services.common.modeldir import open_model_dir
from services.decode.backends import Hop
from services.decode.chunks import ChunkPlan, HopPolicy
from services.decode.state import StreamSpec
from services.decode.torch_backend import TorchBackend

CHUNK = HopPolicy().sizes[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path(__file__).parents[1] / "models" / "tiny")
    parser.add_argument("--seconds", type=float, default=10.0, help="speech to decode")
    parser.add_argument("--prompt-seconds", type=float, default=3.0, help="length of the voice's prompt")
    options = parser.parse_args()
    torch.set_num_threads(1)
    backend = TorchBackend(open_model_dir(options.model))
    backend.warm_up()
    context = backend.vocoder.context
    print(f"{options.model}: vocoder context {context.left} frames left, {context.right} right (held back)")
    count = int(options.seconds * 25)
    rng = np.random.default_rng(0)
    tokens = [int(token) for token in rng.integers(0, backend.format.vocab_size, count)]
    spec = made_up_voice(backend, int(options.prompt_seconds * 25), rng)
    ways: dict[str, tuple[ChunkPlan, Callable[[int], int]]] = {
        "one shot, full attention": (ChunkPlan.whole(), lambda hop: count),
        "one shot, chunk-causal": (ChunkPlan(), lambda hop: count),
        "streamed, hops of 25 tokens": (ChunkPlan(), lambda hop: CHUNK),
        "streamed, hops of 25, 50, 100": (ChunkPlan(), lambda hop: CHUNK * min(4, 2**hop)),
    }
    for name, (plan, hop_tokens) in ways.items():
        hops = decode(backend, spec, plan, tokens, hop_tokens)
        total = sum(hops) / options.seconds
        print(f"{name:30}  {total:.3f} s per s;  per hop {' '.join(f'{seconds:.2f}' for seconds in hops)}")


def made_up_voice(backend: TorchBackend, tokens: int, rng: np.random.Generator) -> StreamSpec:
    config = backend.flow.config
    return StreamSpec(
        prompt_tokens=rng.integers(0, config.vocab_size, tokens).astype(np.int32),
        prompt_mel=(2 * rng.standard_normal((2 * tokens, config.output_size)) - 5).astype(np.float32),
        embedding=rng.standard_normal(config.speaker_dim).astype(np.float32),
    )


def decode(
    backend: TorchBackend, spec: StreamSpec, plan: ChunkPlan, tokens: list[int], hop_tokens: Callable[[int], int]
) -> list[float]:
    """CPU seconds of each hop of one utterance."""
    state = backend.open(spec)
    state.flow.plan = plan
    prompt = state.flow.prompt
    end, seconds = prompt, []
    while end < prompt + len(tokens):
        end = min(prompt + len(tokens), plan.border_at_least(end + hop_tokens(len(seconds))))
        began = time.thread_time()
        (audio,) = backend.run([Hop(state, tokens, end, final=True)], beat=lambda: None)
        seconds.append(time.thread_time() - began)
        if isinstance(audio, Exception):
            raise audio
    return seconds


if __name__ == "__main__":
    main()
