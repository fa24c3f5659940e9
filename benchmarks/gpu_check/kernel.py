"""The paged attention kernel of the llm against plain attention over copied blocks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.gpu_check.check import Check, name_of
from benchmarks.llm_peers import FULL_SIZE
from services.llm.model.kv_cache import DecodeAttention, KVCache, SequenceInput, StepBatch, build_batch, gathered

BLOCK_SIZE = 16
CONFIG = replace(FULL_SIZE, num_layers=1)
SHAPES = ((1, 4000), (7, 700), (64, 350), (256, 350))
"""Rows of a step, and the most positions that one of them attends to."""
ALLOWED = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}
"""Largest relative error that rounding of inputs, weights and output to this precision explains."""


@dataclass(frozen=True)
class Case:
    """Decoding rows over a cache with random contents: query [rows, kv_heads, group, head_dim]."""

    query: Tensor
    batch: StepBatch
    cache: KVCache

    def run(self, attend: DecodeAttention) -> Tensor:
        return attend(self.query, 0, self.batch, self.cache)


def kernel(check: Check) -> None:
    """Compare both at every precision and shape; report the error, and times in bfloat16."""
    from services.llm.model.paged_kernel import paged  # imports Triton

    for dtype, allowed in ALLOWED.items():
        for quantized in (False, True):
            for rows, longest in SHAPES:
                case = make_case(check.device, dtype, rows, longest, quantized=quantized)
                expected, found = case.run(gathered).double(), case.run(paged).double()
                error = float((found - expected).norm() / expected.norm())
                cache = "int8 K/V" if quantized else f"{name_of(dtype)} K/V"
                shape = f"{name_of(dtype)}, {cache}, {rows} rows of up to {longest} positions"
                check.expect(f"kernel agrees: {shape}", error <= allowed, f"relative error {error:.1e}")
                if dtype == torch.bfloat16:
                    times = [check.milliseconds(lambda a=a, c=case: c.run(a)) for a in (paged, gathered)]  # type: ignore[misc]
                    check.report(f"kernel, plain, ms per layer: {shape}", times)


def make_case(device: str, dtype: torch.dtype, rows: int, longest: int, *, quantized: bool = False) -> Case:
    """Make `rows` sequences of random lengths, one of them `longest`, over blocks in random order."""
    generator = torch.Generator().manual_seed(rows)
    lengths = [longest, *torch.randint(1, longest, (rows - 1,), generator=generator).tolist()]
    counts = [-(-length // BLOCK_SIZE) for length in lengths]
    order = torch.randperm(sum(counts) + 1, generator=generator).tolist()
    placed = [
        SequenceInput((5,), length - 1, [order.pop() for _ in range(count)])
        for length, count in zip(lengths, counts, strict=True)
    ]
    cache = KVCache(CONFIG, sum(counts) + 1, BLOCK_SIZE, torch.device(device), dtype, quantized=quantized)
    for stored in (cache.keys, cache.values):
        if quantized:
            stored.copy_(torch.randint(-127, 128, stored.shape, dtype=torch.int8, generator=generator))
        else:
            stored.copy_(torch.randn(stored.shape, generator=generator))
    for scales in (cache.key_scales, cache.value_scales):
        scales.copy_(0.005 + 0.015 * torch.rand(scales.shape, generator=generator))
    group = CONFIG.num_heads // CONFIG.num_kv_heads
    query = torch.randn(rows, CONFIG.num_kv_heads, group, CONFIG.head_dim, generator=generator)
    return Case(query.to(device, dtype), build_batch(placed, BLOCK_SIZE, torch.device(device)), cache)


def decode_attention(check: Check) -> DecodeAttention:
    """Return the paged kernel, or plain attention on a CPU or after a failure of the kernel, which is reported."""
    if not check.on_gpu:
        return gathered
    try:
        from services.llm.model.paged_kernel import paged

        make_case(check.device, check.compute, 2, 40).run(paged)
        check.synchronize()
    except Exception as error:  # noqa: BLE001 - compilers raise their own types; the step then measures the rest
        check.expect("the paged kernel runs", False, f"{type(error).__name__}: {str(error)[:200]}")
        return gathered
    return paged
