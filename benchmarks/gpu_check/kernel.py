"""The Triton kernels of the llm against the plain operations that they replace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.gpu_check.check import TINY, Check, name_of
from benchmarks.llm_peers import FULL_SIZE, random_model
from services.common.checkpoint.model_dir import open_model_dir
from services.llm.loading import TRIAL_AGREEMENT, TRIAL_DIFFERENCE, fused_kernels
from services.llm.model.attention import rotary_frequencies, rotary_table
from services.llm.model.kernels import PLAIN, Attend, StepKernels, gathered
from services.llm.model.kv_cache import KVCache, SequenceInput, StepBatch, build_batch
from services.llm.model.model import SpeechLM
from services.llm.model.prefill_program import TILE
from services.llm.model.trials import drawn_ids, hidden_states

BLOCK_SIZE = 16
CONFIG = replace(FULL_SIZE, num_layers=1, text_vocab=2000)
SHAPES = ((1, 4000), (7, 700), (64, 350), (256, 350))
"""Rows of a step, and the most positions that one of them attends to."""
PROMPTS = (64, 512)
"""Tokens of a prompt."""
ROWS = (1, 64, 256)
"""Rows of a step at which the other kernels are timed."""
ALLOWED = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}
"""Largest relative error that rounding of inputs, weights and output to this precision explains."""


@dataclass(frozen=True)
class Case:
    """Decoding rows over a cache with random contents: query [rows, kv_heads, group, head_dim]."""

    query: Tensor
    batch: StepBatch
    cache: KVCache

    def run(self, attend: Attend) -> Tensor:
        return attend(self.query, 0, self.batch, self.cache)


def kernel(check: Check) -> None:
    """Compare all kernels at every precision; report errors, and times in bfloat16."""
    for dtype, allowed in ALLOWED.items():
        for quantized in (False, True):
            for rows, longest in SHAPES:
                decoding(check, dtype, allowed, rows, longest, quantized=quantized)
            for tokens in PROMPTS:
                prompt(check, dtype, allowed, tokens, quantized=quantized)
            layers(check, dtype, quantized=quantized)
    for rows in ROWS:
        between_products(check, rows)


def decoding(check: Check, dtype: torch.dtype, allowed: float, rows: int, longest: int, *, quantized: bool) -> None:
    from services.llm.model.paged_kernel import paged, paged_split, paged_whole  # imports Triton

    case = make_case(check.device, dtype, rows, longest, quantized=quantized)
    shape = f"{stored_as(dtype, quantized)}, {rows} rows of up to {longest} positions"
    found = case.run(paged)
    error = relative_error(found, case.run(gathered))
    check.expect(f"attention agrees: {shape}", error <= allowed, f"relative error {error:.1e}")
    same = torch.equal(case.run(paged_split), case.run(paged_whole))
    check.expect(f"split attention is the whole one, bit by bit: {shape}", same)
    if dtype == torch.bfloat16:
        times = [check.milliseconds(partial(case.run, attend)) for attend in (paged_split, paged_whole, gathered)]
        check.report(f"attention split, whole, plain, ms per layer: {shape}", times)


def prompt(check: Check, dtype: torch.dtype, allowed: float, tokens: int, *, quantized: bool) -> None:
    from services.llm.model.paged_kernel import paged_tiles

    case = make_case(check.device, dtype, 1, 700 + tokens, quantized=quantized)
    positions = torch.arange(700, 700 + tokens, device=check.device)
    table = case.batch.decode_table.repeat(tokens // TILE, 1)
    query = torch.randn(tokens, *case.query.shape[1:], device=check.device).to(dtype)
    batch = replace(case.batch, positions=positions, tile_table=table)
    found, expected = (attend(query, 0, table, batch, case.cache) for attend in (paged_tiles, PLAIN.attend_tiles))
    error = relative_error(found, expected)
    shape = f"{stored_as(dtype, quantized)}, {tokens} tokens after 700"
    check.expect(f"attention of prompts agrees: {shape}", error <= allowed, f"relative error {error:.1e}")
    if dtype == torch.bfloat16:
        arguments = (query, 0, table, batch, case.cache)
        times = [check.milliseconds(partial(attend, *arguments)) for attend in (paged_tiles, PLAIN.attend_tiles)]
        check.report(f"attention of prompts, kernel and plain, ms per layer: {shape}", times)


def layers(check: Check, dtype: torch.dtype, *, quantized: bool) -> None:
    """The comparisons with which a worker starts."""
    _, model = random_model(open_model_dir(TINY), CONFIG, dtype)
    model = model.to(check.device)
    fused = all_kernels()
    plain, found = (hidden_states(model, each, int8_kv=quantized) for each in (PLAIN, fused))
    difference = float((found - plain).abs().mean())
    name = f"hidden states agree: {stored_as(dtype, quantized)}"
    check.expect(name, difference <= TRIAL_DIFFERENCE, f"mean difference {difference:.1e}")
    size = model.llm_decoder.out_features
    ids, drawn = (drawn_ids(each, size, torch.device(check.device)) for each in (PLAIN, fused))
    share = float((ids == drawn).all(dim=1).float().mean())
    check.expect("sampled ids agree", share >= TRIAL_AGREEMENT, f"{share:.0%}")


def between_products(check: Check, rows: int) -> None:
    """Report the times of the kernels between the products, and of the plain operations, in bfloat16."""
    dtype, device = torch.bfloat16, torch.device(check.device)
    case, heads = make_case(check.device, dtype, rows, 350), CONFIG.num_heads + 2 * CONFIG.num_kv_heads
    norm = nn.RMSNorm(CONFIG.hidden_size, CONFIG.rms_norm_eps).to(device).requires_grad_(False)
    x = torch.randn(rows, CONFIG.hidden_size, device=device)
    delta = x.to(dtype)
    gate_up = torch.randn(rows, 2 * CONFIG.intermediate_size, device=device).to(dtype)
    qkv = torch.randn(rows, heads * CONFIG.head_dim, device=device).to(dtype)
    frequencies = rotary_frequencies(CONFIG.head_dim, CONFIG.rope_theta, device)
    rotary = rotary_table(case.batch.positions, frequencies)
    works: dict[str, Callable[[StepKernels], object]] = {
        "add_norm": lambda kernels: kernels.add_norm(x, delta, norm, dtype),
        "silu_up": lambda kernels: kernels.silu_up(gate_up),
        "rotate_and_store": lambda kernels: kernels.rotate_and_store(qkv, rotary, 0, case.batch, case.cache),
    }
    for name, work in works.items():
        times = [check.milliseconds(partial(work, kernels)) for kernels in (all_kernels(), PLAIN)]
        check.report(f"{name}, kernel and plain, ms: {rows} rows", times)


def all_kernels() -> StepKernels:
    """Return every Triton kernel, whether or not it works."""
    from services.llm.model.layer_kernels import LAYERS
    from services.llm.model.paged_kernel import ATTENTION
    from services.llm.model.sampling_kernels import SAMPLING

    return replace(PLAIN, **ATTENTION, **LAYERS, **SAMPLING)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def stored_as(dtype: torch.dtype, quantized: bool) -> str:
    return f"{name_of(dtype)}, {'int8' if quantized else name_of(dtype)} K/V"


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


def step_kernels(check: Check, model: SpeechLM) -> StepKernels:
    """Return the kernels that a worker would use here; report each plain part that a GPU should not need."""
    if not check.on_gpu:
        return PLAIN
    with torch.cuda.device(check.device):
        kernels = fused_kernels(model)
    for field in fields(StepKernels):
        fused = getattr(kernels, field.name) is not getattr(PLAIN, field.name)
        check.expect(f"the kernel {field.name} is used", fused)
    return kernels
