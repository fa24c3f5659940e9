"""Triton kernels between the matrix products of a layer, for CUDA. Each has its plain twin in `kernels`.

This module needs the triton package. Triton compiles annotations too and rejects names of other modules there, so only
compile-time constants have one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor, nn

if TYPE_CHECKING:
    from services.llm.model.kv_cache import KVCache, StepBatch

CHUNK = 1024
"""Elements that one program of an elementwise kernel handles."""


def fused_embed(codes: Tensor, text: Tensor, special: Tensor | None, speech: Tensor) -> Tensor:
    """See `kernels.Embed`."""
    out = torch.empty((codes.shape[0], text.shape[1]), device=codes.device)
    _embed[(codes.shape[0],)](
        codes,
        text,
        speech if special is None else special,
        speech,
        out,
        codes.stride(0),
        text.shape[0],
        WIDTH=text.shape[1],
        PADDED=triton.next_power_of_2(text.shape[1]),
        SPECIAL=special is not None,
    )
    return out


def fused_open(batch: StepBatch, cache: KVCache) -> None:
    """See `kernels.Open`."""
    stored, opened = cache.cleared, batch.opened
    if opened.shape[0]:
        _clear[(opened.shape[0], stored[0].shape[0])](
            *stored,
            opened,
            opened.stride(0),
            -1 if batch.spare is None else batch.spare,
            stored[0].shape[1],
            SIZE=stored[0][0, 0].numel(),
            CHUNK=CHUNK,
        )


def fused_add_norm(x: Tensor, delta: Tensor | None, norm: nn.RMSNorm, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """See `kernels.AddNorm`."""
    rows, width = x.shape
    out = torch.empty((rows, width), device=x.device, dtype=dtype)
    _add_norm[(rows,)](
        x,
        x if delta is None else delta,
        norm.weight,
        out,
        norm.eps,
        WIDTH=width,
        PADDED=triton.next_power_of_2(width),
        ADD=delta is not None,
    )
    return x, out


def fused_rotate_and_store(
    qkv: Tensor, rotary: tuple[Tensor, Tensor], layer: int, batch: StepBatch, cache: KVCache
) -> Tensor:
    """See `kernels.RotateAndStore`."""
    tokens, kv_heads, head_dim = qkv.shape[0], cache.keys.shape[2], cache.keys.shape[4]
    heads = qkv.shape[1] // head_dim - 2 * kv_heads
    query = torch.empty((tokens, kv_heads, heads // kv_heads, head_dim), device=qkv.device, dtype=qkv.dtype)
    cos, sin = rotary
    _rotate_and_store[(tokens, heads + 2 * kv_heads)](
        qkv,
        cos,
        sin,
        query,
        cache.keys[layer],
        cache.values[layer],
        cache.key_scales[layer],
        cache.value_scales[layer],
        batch.blocks,
        batch.offsets,
        batch.blocks.stride(0),
        batch.offsets.stride(0),
        HEADS=heads,
        KV_HEADS=kv_heads,
        HALF=head_dim // 2,
        BLOCK_SIZE=cache.block_size,
        QUANTIZED=cache.quantized,
        num_warps=1,
    )
    return query


def fused_silu_up(gate_up: Tensor) -> Tensor:
    """See `kernels.SiluUp`."""
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty((rows, width), device=gate_up.device, dtype=gate_up.dtype)
    _silu_up[(rows, triton.cdiv(width, CHUNK))](gate_up, out, WIDTH=width, CHUNK=CHUNK)
    return out


LAYERS: dict[str, Any] = {
    "embed": fused_embed,
    "open": fused_open,
    "add_norm": fused_add_norm,
    "rotate_and_store": fused_rotate_and_store,
    "silu_up": fused_silu_up,
}
"""The fields of `kernels.StepKernels` that this module implements."""


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _embed(  # type: ignore[no-untyped-def]
    codes,
    text,
    special,
    speech,
    out,
    code_row,
    text_vocab,
    WIDTH: tl.constexpr,  # noqa: N803 - Triton's spelling of compile-time constants
    PADDED: tl.constexpr,  # noqa: N803
    SPECIAL: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0)
    code = tl.load(codes + row * code_row)
    column = tl.arange(0, PADDED)
    inside = column < WIDTH
    # A row of one table; the masks of the others read nothing.
    in_text = code < text_vocab
    if SPECIAL:
        in_special = (code >= text_vocab) & (code < text_vocab + 2)
    else:
        in_special = code < 0
    in_speech = (code >= text_vocab) & (in_special == 0)
    speech_row = tl.maximum(code - text_vocab - 2, 0)
    x = tl.load(text + code * WIDTH + column, mask=inside & in_text, other=0).to(tl.float32)
    x += tl.load(special + (code - text_vocab) * WIDTH + column, mask=inside & in_special, other=0).to(tl.float32)
    x += tl.load(speech + speech_row * WIDTH + column, mask=inside & in_speech, other=0).to(tl.float32)
    tl.store(out + row * WIDTH + column, x, mask=inside)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _clear(  # type: ignore[no-untyped-def]
    keys,
    values,
    opened,
    opened_row,
    spare,
    blocks,
    SIZE: tl.constexpr,  # noqa: N803
    CHUNK: tl.constexpr,  # noqa: N803
):
    block = tl.load(opened + tl.program_id(0) * opened_row)
    if block != spare:
        start = (tl.program_id(1).to(tl.int64) * blocks + block) * SIZE
        for begin in range(0, SIZE, CHUNK):
            at = begin + tl.arange(0, CHUNK)
            zero = tl.zeros([CHUNK], keys.dtype.element_ty)
            tl.store(keys + start + at, zero, mask=at < SIZE)
            tl.store(values + start + at, zero, mask=at < SIZE)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _add_norm(  # type: ignore[no-untyped-def]
    x,
    delta,
    weight,
    out,
    eps,
    WIDTH: tl.constexpr,  # noqa: N803
    PADDED: tl.constexpr,  # noqa: N803
    ADD: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0)
    column = tl.arange(0, PADDED)
    inside = column < WIDTH
    value = tl.load(x + row * WIDTH + column, mask=inside, other=0.0)
    if ADD:
        value += tl.load(delta + row * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
        tl.store(x + row * WIDTH + column, value, mask=inside)
    scale = tl.rsqrt(tl.sum(value * value, 0) / WIDTH + eps)
    normed = value * scale * tl.load(weight + column, mask=inside, other=0.0)
    tl.store(out + row * WIDTH + column, normed.to(out.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _store(low, high, stored, scales, slot, HALF: tl.constexpr, QUANTIZED: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """Write one head of one token, `low` and `high` being its halves, into its slot."""
    half = tl.arange(0, HALF)
    if QUANTIZED:
        low, high = low.to(tl.float32), high.to(tl.float32)
        scale = tl.maximum(tl.maximum(tl.max(tl.abs(low), 0), tl.max(tl.abs(high), 0)), 1e-12)
        scale = tl.div_rn(scale, 127.0)
        tl.store(scales + slot, scale)
        low, high = _rounded(tl.div_rn(low, scale)), _rounded(tl.div_rn(high, scale))
    tl.store(stored + slot * 2 * HALF + half, low.to(stored.dtype.element_ty))
    tl.store(stored + slot * 2 * HALF + HALF + half, high.to(stored.dtype.element_ty))


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _rounded(x):  # type: ignore[no-untyped-def]
    """The nearest integer, halves to even as in torch, of |x| below 2^22: 1.5 * 2^23 leaves no bits for fractions."""
    return (x + 12582912.0) - 12582912.0


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _rotate_and_store(  # type: ignore[no-untyped-def]
    qkv,
    cos,
    sin,
    query,
    keys,
    values,
    key_scales,
    value_scales,
    blocks,
    offsets,
    block_row,
    offset_row,
    HEADS: tl.constexpr,  # noqa: N803
    KV_HEADS: tl.constexpr,  # noqa: N803
    HALF: tl.constexpr,  # noqa: N803
    BLOCK_SIZE: tl.constexpr,  # noqa: N803
    QUANTIZED: tl.constexpr,  # noqa: N803
):
    token = tl.program_id(0)
    head = tl.program_id(1)
    half = tl.arange(0, HALF)
    source = qkv + (token * (HEADS + 2 * KV_HEADS) + head) * 2 * HALF
    low = tl.load(source + half)
    high = tl.load(source + HALF + half)
    if head < HEADS + KV_HEADS:
        c = tl.load(cos + token * HALF + half)
        s = tl.load(sin + token * HALF + half)
        x, y = low.to(tl.float32), high.to(tl.float32)
        low, high = (x * c - y * s).to(low.dtype), (y * c + x * s).to(high.dtype)
    if head < HEADS:
        target = query + (token * HEADS + head) * 2 * HALF
        tl.store(target + half, low)
        tl.store(target + HALF + half, high)
    else:
        block = tl.load(blocks + token * block_row).to(tl.int64)
        offset = tl.load(offsets + token * offset_row)
        slot = (block * KV_HEADS + (head - HEADS) % KV_HEADS) * BLOCK_SIZE + offset
        if head < HEADS + KV_HEADS:
            _store(low, high, keys, key_scales, slot, HALF, QUANTIZED)
        else:
            _store(low, high, values, value_scales, slot, HALF, QUANTIZED)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _silu_up(gate_up, out, WIDTH: tl.constexpr, CHUNK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    row = tl.program_id(0)
    column = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    inside = column < WIDTH
    gate = tl.load(gate_up + row * 2 * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * WIDTH + WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * WIDTH + column, (gate / (1.0 + tl.exp(-gate)) * up).to(out.dtype.element_ty), mask=inside)
