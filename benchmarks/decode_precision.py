"""Measures the error of the mel when states are kept, and steps computed, in fewer bits than float32.

    python -m benchmarks.decode_precision [--model DIR] [--device cuda:0] [--hops 4]

Without --model it uses the 0.5B layout with random weights. Tokens and voice are random. Every hop except the first
uses the states of earlier hops. `tests/unit/decode/test_flow_memory.py` tests bounds of the same kind.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.decode import CHUNK, made_up_voice, model_directory
from services.common.checkpoint.model_dir import ModelDir, open_model_dir
from services.decode.engine.torch_backend import Precision, TorchBackend
from services.decode.flow.model import FlowHop

PROMPT_TOKENS = 28
STATE_BYTES = 2 * 2**30
PRECISIONS = (
    Precision(state=torch.bfloat16),
    Precision(state=torch.float16),
    Precision(state=torch.float8_e4m3fn),
    Precision(torch.bfloat16, torch.bfloat16),
    Precision(torch.bfloat16, torch.float8_e4m3fn),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.decode_precision", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--model", type=Path, help="model directory; default: the 0.5B layout, random weights")
    parser.add_argument("--device", type=torch.device, default="cpu", help="cpu, cuda:0 ...")
    parser.add_argument("--hops", type=int, default=4, help="hops of one second")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with model_directory(options.model) as directory:
        model = open_model_dir(directory)
        exact, size = streamed(model, options.device, Precision(), options.hops)
        print(f"{options.model or '0.5B layout'}: standard deviation of the mel {exact.std():.2f}")
        print("estimator  kept state       MB per second  mean error  largest")
        print(f"{name(torch.float32):<10} {name(torch.float32):<15} {size / 1e6:14.1f}")
        for precision in PRECISIONS:
            mel, size = streamed(model, options.device, precision, options.hops)
            error = (mel - exact).abs()
            print(
                f"{name(precision.compute):<10} {name(precision.state):<15} {size / 1e6:14.1f} {error.mean():11.5f} "
                f"{error.max():8.4f}",
                flush=True,
            )


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def streamed(model: ModelDir, device: torch.device, precision: Precision, hops: int) -> tuple[Tensor, int]:
    """Return the mel of an utterance of `hops` chunks, one hop each, and the bytes of a second of its state."""
    backend = TorchBackend(model, device, precision, STATE_BYTES)
    rng = np.random.default_rng(0)
    state = backend.open(made_up_voice(backend, PROMPT_TOKENS, rng)).flow
    count = CHUNK * (hops + 1) - PROMPT_TOKENS
    state.tokens = rng.integers(0, backend.format.vocab_size, count).tolist()
    ends = [CHUNK * (hop + 2) for hop in range(hops)]
    mels = [backend.flow.append([FlowHop(state, end, final=end == ends[-1])])[0] for end in ends]
    return torch.cat(mels), backend.flow.pool.block_bytes


if __name__ == "__main__":
    main()
