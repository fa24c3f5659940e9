"""What each precision of kept states costs in error, memory and time."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.gpu_check.check import Check, name_of
from benchmarks.gpu_check.decode import FIRST_END, LAST_END, TOKEN_RATE, Batch, load_decode
from services.decode.flow.model import FlowHop

PRECISIONS = (
    (torch.float32, torch.float32),
    (torch.float32, torch.bfloat16),
    (torch.float32, torch.float8_e4m3fn),
    (torch.bfloat16, torch.bfloat16),
    (torch.bfloat16, torch.float16),
    (torch.bfloat16, torch.float8_e4m3fn),
)
"""What the estimator computes in, and what it keeps; the first pair is what the others are compared with."""


def states(check: Check) -> None:
    """Streams one utterance in each precision; on a CPU with float32 arithmetic only, as bfloat16 is slow there."""
    exact: Tensor | None = None
    for compute, kept in PRECISIONS:
        if check.on_gpu or compute == torch.float32:
            mel = _measure(check, compute, kept, exact)
            exact = mel if exact is None else exact


def _measure(check: Check, compute: torch.dtype, kept: torch.dtype, exact: Tensor | None) -> Tensor:
    """Reports one pair of precisions; returns the mel that it gives, [frames, mel]."""
    pair, streams = f"{name_of(compute)}, states in {name_of(kept)}", 8 if check.on_gpu else 1
    backend = load_decode(check, compute, kept, programs=streams)
    mel = _streamed_mel(Batch.open(backend, 1, ""))
    if exact is not None:
        difference = (mel - exact).abs()
        check.report(f"{pair}: error, mean", f"{float(difference.mean()):.1e}")
        check.report(f"{pair}: error, largest", f"{float(difference.max()):.1e}")
    check.report(f"{pair}: MB per second of a stream", round(backend.flow.pool.block_bytes / 1e6, 1))
    batch = Batch.open(backend, streams, "known voice")
    batch.hop(FIRST_END)
    batch.hop(FIRST_END + TOKEN_RATE)
    seconds = check.seconds(lambda: batch.hop(FIRST_END + 2 * TOKEN_RATE))
    check.report(f"{pair}: hop of {streams} streams, ms", round(seconds * 1e3, 1))
    return mel


def _streamed_mel(batch: Batch) -> Tensor:
    """The mel of a stream's first hops, [frames, mel]."""
    flow, state = batch.backend.flow, batch.states[0].flow
    state.tokens = batch.tokens
    return torch.cat(
        [flow.append([FlowHop(state, end, final=False)])[0] for end in range(FIRST_END, LAST_END, TOKEN_RATE)]
    )
