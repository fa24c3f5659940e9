"""Attention over the blocks of the flow's cache as one Triton kernel, for CUDA. `PlainAttention` is its plain twin.

A program handles one tile of a stream's new frames, in one guidance row and head. It stores the keys and values of its
own frames, reads the past from the blocks in place, and the new frames from k and v themselves, so that no program
waits for what another one stores. New values are rounded as the cache stores them: a frame contributes the same whether
it is new or past. float8 values are decoded in registers, by integer arithmetic, since GPUs before Ada have no float8.

Lengths, positions, blocks and the Euler step are read from device memory, so one launch fits any batch of its shape and
can be part of a CUDA graph. Launches differ only in constants and in tensors, so that a start compiles few variants.
This module needs the triton package. Triton compiles annotations too, so only compile-time constants have one.
"""

from __future__ import annotations

from functools import cache as remembered
from functools import partial

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor

from services.decode.estimators.early_launch import after_previous, launch_options
from services.decode.flow.block_attention import Batch
from services.decode.flow.kv_cache import KvCache

SMALLEST_TILE, LARGEST_TILE = 16, 64
"""New frames of one program; the matrix units accept no fewer than 16."""
MOST_KEYS = 128
"""Positions that a program handles at a time; half of them where values are of four bytes or decoded from float8."""
UNSPECIALISED = ["layer", "stored_blocks", "frames", "streams", "table_row"]
"""Arguments that change with the layer and the batch's shape: no variant is compiled for special values of them."""


class BlockAttention:
    """The attention of one step; see `block_attention.MakeAttention`."""

    def __init__(self, cache: KvCache, batch: Batch, dtype: torch.dtype, *, early: bool = False) -> None:
        """`batch` must consist of columns of one table, as in a program, or of tensors with equal strides.

        With `early`, kernels are launched as `early_launch` describes.
        """
        self._cache, self._batch, self._launch = cache, batch, launch_options(early)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k and v, then attend. q, k and v may be parts of one product; their last two strides are dense."""
        cache, batch = self._cache, self._batch
        rows, frames, heads, head_dim = q.shape
        if not _alike(q, k, v):
            q, k, v = (one.contiguous() for one in (q, k, v))
        values, scales = cache.stored
        out = torch.empty((rows, frames, heads * head_dim), dtype=q.dtype, device=q.device)
        tile = _tile(frames, rows * heads, q.device)
        large = scales is not None or q.element_size() > 2
        _attend[(triton.cdiv(frames, tile), heads, rows)](
            q,
            k,
            v,
            out,
            values,
            values if scales is None else scales.view(torch.int16),  # bits, which the kernel rounds itself
            batch.step,
            batch.starts,
            batch.lengths,
            batch.ends,
            batch.blocks,
            head_dim**-0.5,
            layer,
            q.stride(0),
            q.stride(1),
            cache.blocks,
            frames,
            rows // cache.layout.rows,
            batch.starts.stride(0),
            LAYERS=cache.layout.layers,
            ROWS=cache.layout.rows,
            HEADS=heads,
            HEAD_DIM=head_dim,
            SIZE=cache.layout.positions,
            TILE=tile,
            KEYS=MOST_KEYS // 2 if large else MOST_KEYS,
            SCALED=scales is not None,
            num_warps=4,
            num_stages=1 if scales is not None else 2,  # the fastest of a sweep on an H100
            **self._launch,
        )
        return out


EARLY_ATTENTION = partial(BlockAttention, early=True)


def fits(head_dim: int) -> bool:
    """Whether the kernel supports heads of that size."""
    return head_dim >= SMALLEST_TILE and head_dim & (head_dim - 1) == 0


def _alike(q: Tensor, k: Tensor, v: Tensor) -> bool:
    dense = (q.shape[3], 1)
    return q.stride() == k.stride() == v.stride() and q.stride()[2:] == dense


def _tile(frames: int, others: int, device: torch.device) -> int:
    """The largest tile that leaves no multiprocessor without work; `others` is the number of programs per tile."""
    tile = LARGEST_TILE
    while tile > SMALLEST_TILE and (tile >= 2 * frames or -(-frames // tile) * others < multiprocessors(device)):
        tile //= 2
    return tile


@remembered
def multiprocessors(device: torch.device) -> int:
    """The number of programs that run at once, at one per multiprocessor."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _encoded(x):  # type: ignore[no-untyped-def]
    """float32 of magnitude at most 448 to the bits of float8_e4m3fn, halves to even as in torch."""
    size = tl.abs(x)
    bits = size.to(tl.int32, bitcast=True)
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20) - (120 << 3)
    # Below 2^-6 the codes count multiples of 2^-9; adding 1.5 * 2^23 leaves no bits for fractions.
    subnormal = ((size * 512.0 + 12582912.0) - 12582912.0).to(tl.int32)
    code = tl.minimum(tl.where(size < 0.015625, subnormal, normal), 0x7E)
    return (code | tl.where(x < 0, 0x80, 0)).to(tl.uint8)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _decoded(codes):  # type: ignore[no-untyped-def]
    """The bits of float8_e4m3fn to float32, exactly: as float16 they are the value over 256, subnormal or not."""
    bits = codes.to(tl.int16)
    half = ((bits & 0x80) << 8) | ((bits & 0x7F) << 7)
    return half.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32) * 256.0


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _scale_bits(x):  # type: ignore[no-untyped-def]
    """The bits of the bfloat16 scale of each row of one head [n, d]; see `KvCache._packed`."""
    scale = tl.maximum(tl.max(tl.abs(x), 1), 1e-12) * (1.0 / 448.0)
    bits = scale.to(tl.int32, bitcast=True)
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # halves to even


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _scales(bits):  # type: ignore[no-untyped-def]
    """The bits of positive bfloat16 to float32 [n, 1]."""
    return (bits.to(tl.int32) << 16).to(tl.float32, bitcast=True)[:, None]


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _weighted(q, k, v, seen, scale, most, total, mixed):  # type: ignore[no-untyped-def]
    """Add the keys and values [n, d] that `seen` [rows, n] marks to a running softmax."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    scores = tl.where(seen, scores, -float("inf"))
    larger = tl.maximum(most, tl.max(scores, 1))
    # A row that has seen nothing yet must not give NaN.
    finite = tl.where(larger == -float("inf"), 0.0, larger)
    shrink = tl.exp(most - finite)
    weights = tl.exp(scores - finite[:, None])
    mixed = mixed * shrink[:, None] + tl.dot(weights.to(q.dtype), v, input_precision="ieee")
    return larger, total * shrink + tl.sum(weights, 1), mixed


@triton.jit(do_not_specialize=UNSPECIALISED)  # type: ignore[untyped-decorator, unused-ignore]
def _attend(  # type: ignore[no-untyped-def]
    q,
    k,
    v,
    out,
    stored,
    stored_scales,
    step,
    starts,
    lengths,
    ends,
    blocks,
    scale,
    layer,
    q_row,
    q_frame,
    stored_blocks,
    frames,
    streams,
    table_row,
    LAYERS: tl.constexpr,  # noqa: N803 - Triton's spelling of compile-time constants
    ROWS: tl.constexpr,  # noqa: N803
    HEADS: tl.constexpr,  # noqa: N803
    HEAD_DIM: tl.constexpr,  # noqa: N803
    SIZE: tl.constexpr,  # noqa: N803
    TILE: tl.constexpr,  # noqa: N803
    KEYS: tl.constexpr,  # noqa: N803
    SCALED: tl.constexpr,  # noqa: N803
    EARLY: tl.constexpr,  # noqa: N803
):
    after_previous(EARLY)
    first = tl.program_id(0) * TILE
    head = tl.program_id(1)
    row = tl.program_id(2)
    stream = row % streams
    start = tl.load(starts + stream * table_row)
    length = tl.load(lengths + stream * table_row)
    table = blocks + stream * table_row
    # Planes of the cache: keys, then values, each [ROWS, stored_blocks, SIZE, HEADS * HEAD_DIM].
    layer_at = (tl.load(step) * LAYERS + layer) * 2 * ROWS + row // streams
    key_plane = layer_at * stored_blocks
    value_plane = (layer_at + ROWS) * stored_blocks
    width = HEADS * HEAD_DIM
    dims = head * HEAD_DIM + tl.arange(0, HEAD_DIM)
    base = row.to(tl.int64) * q_row

    frame = first + tl.arange(0, TILE)
    inside = frame < frames
    at = base + frame * q_frame
    mine = tl.load(q + at[:, None] + dims[None, :], mask=inside[:, None], other=0.0)
    end = tl.load(ends + stream * table_row + frame, mask=inside, other=0)
    most = tl.full([TILE], -float("inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    mixed = tl.zeros([TILE, HEAD_DIM], tl.float32)

    # The past, in place.
    for begin in range(0, start, KEYS):
        position = begin + tl.arange(0, KEYS)
        known = position < start
        block = tl.load(table + position // SIZE, mask=known, other=0)
        key_at = (key_plane + block) * SIZE + position % SIZE
        value_at = (value_plane + block) * SIZE + position % SIZE
        keys = tl.load(stored + key_at[:, None] * width + dims[None, :], mask=known[:, None], other=0)
        values = tl.load(stored + value_at[:, None] * width + dims[None, :], mask=known[:, None], other=0)
        if SCALED:
            key_scales = tl.load(stored_scales + key_at * HEADS + head, mask=known, other=0)
            value_scales = tl.load(stored_scales + value_at * HEADS + head, mask=known, other=0)
            keys = _decoded(keys) * _scales(key_scales)
            values = _decoded(values) * _scales(value_scales)
        seen = known[None, :] & (position[None, :] < end[:, None])
        keys, values = keys.to(mine.dtype), values.to(mine.dtype)
        most, total, mixed = _weighted(mine, keys, values, seen, scale, most, total, mixed)

    # The new frames, rounded as they are stored. The program whose tile they are stores them. One stage: one or two
    # iterations are too few to load ahead.
    for begin in tl.range(0, length, KEYS, num_stages=1):
        new = begin + tl.arange(0, KEYS)
        valid = new < length
        new_at = base + new * q_frame
        keys = tl.load(k + new_at[:, None] + dims[None, :], mask=valid[:, None], other=0.0)
        values = tl.load(v + new_at[:, None] + dims[None, :], mask=valid[:, None], other=0.0)
        position = start + new
        own = valid & (new >= first) & (new < first + TILE)
        block = tl.load(table + position // SIZE, mask=own, other=0)
        key_at = (key_plane + block) * SIZE + position % SIZE
        value_at = (value_plane + block) * SIZE + position % SIZE
        if SCALED:
            keys, values = keys.to(tl.float32), values.to(tl.float32)
            key_scales, value_scales = _scale_bits(keys), _scale_bits(values)
            kept_keys = _encoded(tl.div_rn(keys, _scales(key_scales)))
            kept_values = _encoded(tl.div_rn(values, _scales(value_scales)))
            tl.store(stored_scales + key_at * HEADS + head, key_scales.to(tl.int16), mask=own)
            tl.store(stored_scales + value_at * HEADS + head, value_scales.to(tl.int16), mask=own)
            rounded_keys = _decoded(kept_keys) * _scales(key_scales)
            rounded_values = _decoded(kept_values) * _scales(value_scales)
        else:
            kept_keys = keys.to(stored.dtype.element_ty)
            kept_values = values.to(stored.dtype.element_ty)
            rounded_keys, rounded_values = kept_keys, kept_values
        tl.store(stored + key_at[:, None] * width + dims[None, :], kept_keys, mask=own[:, None])
        tl.store(stored + value_at[:, None] * width + dims[None, :], kept_values, mask=own[:, None])
        seen = valid[None, :] & (position[None, :] < end[:, None])
        keys, values = rounded_keys.to(mine.dtype), rounded_values.to(mine.dtype)
        most, total, mixed = _weighted(mine, keys, values, seen, scale, most, total, mixed)

    # Rows of padding may have seen nothing.
    mixed = mixed / tl.where(total > 0, total, 1.0)[:, None]
    out_at = (row.to(tl.int64) * frames + frame) * width
    tl.store(out + out_at[:, None] + dims[None, :], mixed.to(out.dtype.element_ty), mask=inside[:, None])
