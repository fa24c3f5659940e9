"""Measures error, memory and time of each precision of kept states."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.gpu_check.check import Check, name_of
from benchmarks.gpu_check.decode import FIRST_END, LAST_END, TOKEN_RATE, Batch, load_decode
from services.decode.flow.model import FlowHop

KEPT = (torch.bfloat16, torch.float16, torch.float8_e4m3fn)
"""Precisions of kept states; on a CPU only the last one, which has the most complex code."""


def states(check: Check) -> None:
    """Stream one utterance in each precision and compare it with float32."""
    exact = _streamed_mel(Batch.open(load_decode(check, torch.float32, torch.float32), 1, ""))
    for kept in KEPT if check.on_gpu else KEPT[-1:]:
        _measure(check, kept, exact)


def _measure(check: Check, kept: torch.dtype, exact: Tensor) -> None:
    """Report one precision of states, with the arithmetic that workers use on this device."""
    pair, streams = f"{name_of(check.compute)}, states in {name_of(kept)}", 8 if check.on_gpu else 1
    backend = load_decode(check, check.compute, kept, programs=streams)
    difference = (_streamed_mel(Batch.open(backend, 1, "")) - exact).abs()
    check.report(f"{pair}: error, mean", f"{float(difference.mean()):.1e}")
    check.report(f"{pair}: error, largest", f"{float(difference.max()):.1e}")
    check.report(f"{pair}: MB per second of a stream", round(backend.flow.pool.block_bytes / 1e6, 1))
    batch = Batch.open(backend, streams, "known voice")
    batch.hop(FIRST_END)
    batch.hop(FIRST_END + TOKEN_RATE)
    seconds = check.seconds(lambda: batch.hop(FIRST_END + 2 * TOKEN_RATE))
    check.report(f"{pair}: hop of {streams} streams, ms", round(seconds * 1e3, 1))


def _streamed_mel(batch: Batch) -> Tensor:
    """Return the mel of a stream's first hops, [frames, mel]."""
    flow, state = batch.backend.flow, batch.states[0].flow
    state.tokens = batch.tokens
    return torch.cat(
        [flow.append([FlowHop(state, end, final=False)])[0] for end in range(FIRST_END, LAST_END, TOKEN_RATE)]
    )
