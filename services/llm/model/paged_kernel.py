"""Attention that reads K/V blocks in place: Triton kernels, for CUDA. Their plain twins are in `kernels`.

Decoding: the positions of a sequence are divided into parts of fixed length. Each part gives a partial result per query
head (the largest score, the sum of the weights, the weighted values), and the parts are merged in order of position.
With few sequences, one program handles one part, so that the parts of a sequence run at the same time on many
multiprocessors, and a second kernel merges them. With many, one program handles all parts of one sequence and K/V head
and merges as it goes, by the same operations in the same order: a result does not depend on the size of the batch.

Prompts: one program handles one tile of tokens of one sequence and one K/V head.

Kernels read lengths and positions from device memory, so that one launch fits any mixture of lengths and can be part of
a CUDA graph. This module needs the triton package.
"""

from __future__ import annotations

from functools import cache as remembered
from typing import TYPE_CHECKING, Any

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor

if TYPE_CHECKING:
    from services.llm.model.kv_cache import KVCache, StepBatch

SMALLEST_DOT = 16
"""Fewest rows that the matrix units accept; the group of query heads is padded to this number."""
LARGEST_TILE = 128
"""Most rows, tokens times query heads, of a program for prompts."""


def paged(query: Tensor, layer: int, batch: StepBatch, cache: KVCache) -> Tensor:
    """See `kernels.Attend`: split along positions if one program per row leaves multiprocessors idle."""
    rows, kv_heads = query.shape[:2]
    return (paged_split if rows * kv_heads < _multiprocessors(query.device) else paged_whole)(
        query, layer, batch, cache
    )


def paged_whole(query: Tensor, layer: int, batch: StepBatch, cache: KVCache) -> Tensor:
    """`paged` with one program per row and K/V head."""
    query = query.contiguous()
    out = torch.empty_like(query)
    _attend[query.shape[:2]](query, *_stored(layer, cache), out, *_decoding(query, batch), **_constants(query, cache))
    return out


def paged_split(query: Tensor, layer: int, batch: StepBatch, cache: KVCache) -> Tensor:
    """`paged` with one program per row, K/V head and part, and a second launch that merges the parts."""
    rows, kv_heads, group, head_dim = query.shape
    query = query.contiguous()
    constants = _constants(query, cache)
    parts = triton.cdiv(batch.decode_table.shape[1] * cache.block_size, constants["PART"])
    sums = torch.empty((rows, kv_heads, parts, 2, group), device=query.device)
    mixed = torch.empty((rows, kv_heads, parts, group, head_dim), device=query.device)
    _attend_part[(rows, kv_heads, parts)](
        query, *_stored(layer, cache), sums, mixed, *_decoding(query, batch), **constants
    )
    out = torch.empty_like(query)
    _merge[(rows, kv_heads)](
        sums,
        mixed,
        out,
        batch.decode_lengths,
        batch.decode_lengths.stride(0),
        parts,
        KV_HEADS=kv_heads,
        GROUP=group,
        PADDED=triton.next_power_of_2(group),
        HEAD_DIM=head_dim,
        PART=constants["PART"],
    )
    return out


def paged_tiles(query: Tensor, layer: int, table: Tensor, batch: StepBatch, cache: KVCache) -> Tensor:
    """See `kernels.AttendTiles`."""
    tokens, kv_heads, group, head_dim = query.shape
    tiles = table.shape[0]
    query = query.contiguous()
    out = torch.empty_like(query)
    positions = batch.positions[-tokens:]
    constants = _constants(query, cache) | {"PADDED": triton.next_power_of_2(group), "TOKENS": tokens // tiles}
    _attend_tile[(tiles, kv_heads)](
        query,
        *_stored(layer, cache),
        out,
        head_dim**-0.5,
        table,
        *table.stride(),
        positions,
        positions.stride(0),
        **constants,
    )
    return out


def fits_tiles(tokens: int, group: int) -> bool:
    """Whether `paged_tiles` supports tiles of that many tokens."""
    return SMALLEST_DOT <= tokens * int(triton.next_power_of_2(group)) <= LARGEST_TILE


ATTENTION: dict[str, Any] = {"attend": paged, "attend_tiles": paged_tiles}
"""The fields of `kernels.StepKernels` that this module implements."""


@remembered
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _stored(layer: int, cache: KVCache) -> tuple[Tensor, ...]:
    return cache.keys[layer], cache.values[layer], cache.key_scales[layer], cache.value_scales[layer]


def _decoding(query: Tensor, batch: StepBatch) -> tuple[Any, ...]:
    table, lengths = batch.decode_table, batch.decode_lengths
    return query.shape[3] ** -0.5, table, *table.stride(), lengths, lengths.stride(0)


def _constants(query: Tensor, cache: KVCache) -> dict[str, Any]:
    _, kv_heads, group, head_dim = query.shape
    return {
        "KV_HEADS": kv_heads,
        "GROUP": group,
        "PADDED": max(SMALLEST_DOT, triton.next_power_of_2(group)),
        "HEAD_DIM": head_dim,
        "BLOCK_SIZE": cache.block_size,
        # Fewer positions of float32, so that two stages fit into the shared memory of every GPU.
        "PART": 64 if query.dtype == torch.float32 else 128,
        "QUANTIZED": cache.quantized,
        "num_stages": 2,
    }


# Triton compiles annotations too and rejects names of other modules there, such as Any. So only constants have one.
@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _part(  # type: ignore[no-untyped-def]
    q,
    keys,
    values,
    key_scales,
    value_scales,
    scale,
    table,
    table_column,
    last,
    longest,
    start,
    head,
    KV_HEADS: tl.constexpr,  # noqa: N803 - Triton's spelling of compile-time constants
    HEAD_DIM: tl.constexpr,  # noqa: N803
    BLOCK_SIZE: tl.constexpr,  # noqa: N803
    PART: tl.constexpr,  # noqa: N803
    QUANTIZED: tl.constexpr,  # noqa: N803
):
    """Attend from q [rows, HEAD_DIM] to one part: row i to the positions `start` to `last[i]`, all below `longest`.

    Returns the largest score [rows], the sum of the weights [rows], the weighted values [rows, HEAD_DIM].
    """
    dims = tl.arange(0, HEAD_DIM)
    position = start + tl.arange(0, PART)
    seen = position < longest
    block = tl.load(table + position // BLOCK_SIZE * table_column, mask=seen, other=0)
    stored = (block * KV_HEADS + head) * BLOCK_SIZE + position % BLOCK_SIZE
    at = stored[:, None] * HEAD_DIM + dims[None, :]
    k = tl.load(keys + at, mask=seen[:, None], other=0)
    v = tl.load(values + at, mask=seen[:, None], other=0)
    if QUANTIZED:
        k = k.to(tl.float32) * tl.load(key_scales + stored, mask=seen, other=0.0)[:, None]
        v = v.to(tl.float32) * tl.load(value_scales + stored, mask=seen, other=0.0)[:, None]
    scores = tl.dot(q, tl.trans(k.to(q.dtype)), input_precision="ieee") * scale
    scores = tl.where(position[None, :] <= last[:, None], scores, -float("inf"))
    most = tl.max(scores, 1)
    # A row that sees nothing here must not give NaN.
    weights = tl.exp(scores - tl.where(most == -float("inf"), 0.0, most)[:, None])
    return most, tl.sum(weights, 1), tl.dot(weights.to(q.dtype), v.to(q.dtype), input_precision="ieee")


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _merged(most, total, mixed, part_most, part_total, part_mixed):  # type: ignore[no-untyped-def]
    """Merge the next part into those before it. Every path merges with this function, in order of position."""
    larger = tl.maximum(most, part_most)
    shrink, part_shrink = tl.exp(most - larger), tl.exp(part_most - larger)
    total = total * shrink + part_total * part_shrink
    return larger, total, mixed * shrink[:, None] + part_mixed * part_shrink[:, None]


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _attend(  # type: ignore[no-untyped-def]
    query,
    keys,
    values,
    key_scales,
    value_scales,
    out,
    scale,
    table,
    table_row,
    table_column,
    lengths,
    length_row,
    KV_HEADS: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
    PADDED: tl.constexpr,  # noqa: N803
    HEAD_DIM: tl.constexpr,  # noqa: N803
    BLOCK_SIZE: tl.constexpr,  # noqa: N803
    PART: tl.constexpr,  # noqa: N803
    QUANTIZED: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0)
    head = tl.program_id(1)
    length = tl.load(lengths + row * length_row)
    heads = tl.arange(0, PADDED)
    dims = tl.arange(0, HEAD_DIM)
    inside = heads[:, None] < GROUP
    query_at = ((row * KV_HEADS + head) * GROUP + heads[:, None]) * HEAD_DIM + dims[None, :]
    q = tl.load(query + query_at, mask=inside, other=0.0)
    last = tl.zeros([PADDED], tl.int64) + (length - 1)
    most = tl.full([PADDED], -float("inf"), tl.float32)
    total = tl.zeros([PADDED], tl.float32)
    mixed = tl.zeros([PADDED, HEAD_DIM], tl.float32)
    for start in range(0, length, PART):
        part_most, part_total, part_mixed = _part(
            q, keys, values, key_scales, value_scales, scale, table + row * table_row, table_column, last, length,
            start, head, KV_HEADS, HEAD_DIM, BLOCK_SIZE, PART, QUANTIZED,
        )  # fmt: skip
        most, total, mixed = _merged(most, total, mixed, part_most, part_total, part_mixed)
    tl.store(out + query_at, (mixed / total[:, None]).to(q.dtype), mask=inside)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _attend_part(  # type: ignore[no-untyped-def]
    query,
    keys,
    values,
    key_scales,
    value_scales,
    sums,
    mixed,
    scale,
    table,
    table_row,
    table_column,
    lengths,
    length_row,
    KV_HEADS: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
    PADDED: tl.constexpr,  # noqa: N803
    HEAD_DIM: tl.constexpr,  # noqa: N803
    BLOCK_SIZE: tl.constexpr,  # noqa: N803
    PART: tl.constexpr,  # noqa: N803
    QUANTIZED: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0)
    head = tl.program_id(1)
    start = tl.program_id(2) * PART
    length = tl.load(lengths + row * length_row)
    if start < length:
        heads = tl.arange(0, PADDED)
        dims = tl.arange(0, HEAD_DIM)
        inside = heads < GROUP
        query_at = ((row * KV_HEADS + head) * GROUP + heads[:, None]) * HEAD_DIM + dims[None, :]
        q = tl.load(query + query_at, mask=inside[:, None], other=0.0)
        last = tl.zeros([PADDED], tl.int64) + (length - 1)
        part_most, part_total, part_mixed = _part(
            q, keys, values, key_scales, value_scales, scale, table + row * table_row, table_column, last, length,
            start, head, KV_HEADS, HEAD_DIM, BLOCK_SIZE, PART, QUANTIZED,
        )  # fmt: skip
        part = (row * KV_HEADS + head) * tl.num_programs(2) + tl.program_id(2)
        tl.store(sums + part * 2 * GROUP + heads, part_most, mask=inside)
        tl.store(sums + (part * 2 + 1) * GROUP + heads, part_total, mask=inside)
        tl.store(mixed + (part * GROUP + heads[:, None]) * HEAD_DIM + dims[None, :], part_mixed, mask=inside[:, None])


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _merge(  # type: ignore[no-untyped-def]
    sums,
    mixed,
    out,
    lengths,
    length_row,
    parts,
    KV_HEADS: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
    PADDED: tl.constexpr,  # noqa: N803
    HEAD_DIM: tl.constexpr,  # noqa: N803
    PART: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0)
    at = row * KV_HEADS + tl.program_id(1)
    heads = tl.arange(0, PADDED)
    dims = tl.arange(0, HEAD_DIM)
    inside = heads < GROUP
    most = tl.full([PADDED], -float("inf"), tl.float32)
    total = tl.zeros([PADDED], tl.float32)
    summed = tl.zeros([PADDED, HEAD_DIM], tl.float32)
    for number in range(tl.cdiv(tl.load(lengths + row * length_row), PART)):
        part = at * parts + number
        part_most = tl.load(sums + part * 2 * GROUP + heads, mask=inside, other=0.0)
        part_total = tl.load(sums + (part * 2 + 1) * GROUP + heads, mask=inside, other=1.0)
        part_at = (part * GROUP + heads[:, None]) * HEAD_DIM + dims[None, :]
        part_mixed = tl.load(mixed + part_at, mask=inside[:, None], other=0.0)
        most, total, summed = _merged(most, total, summed, part_most, part_total, part_mixed)
    out_at = (at * GROUP + heads[:, None]) * HEAD_DIM + dims[None, :]
    tl.store(out + out_at, (summed / total[:, None]).to(out.dtype.element_ty), mask=inside[:, None])


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _attend_tile(  # type: ignore[no-untyped-def]
    query,
    keys,
    values,
    key_scales,
    value_scales,
    out,
    scale,
    table,
    table_row,
    table_column,
    positions,
    position_row,
    KV_HEADS: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
    PADDED: tl.constexpr,  # noqa: N803
    HEAD_DIM: tl.constexpr,  # noqa: N803
    BLOCK_SIZE: tl.constexpr,  # noqa: N803
    PART: tl.constexpr,  # noqa: N803
    QUANTIZED: tl.constexpr,  # noqa: N803
    TOKENS: tl.constexpr,  # noqa: N803
):
    tile = tl.program_id(0)
    head = tl.program_id(1)
    rows = tl.arange(0, TOKENS * PADDED)
    token = tile * TOKENS + rows // PADDED
    dims = tl.arange(0, HEAD_DIM)
    inside = rows[:, None] % PADDED < GROUP
    query_at = ((token * KV_HEADS + head) * GROUP + rows % PADDED)[:, None] * HEAD_DIM + dims[None, :]
    q = tl.load(query + query_at, mask=inside, other=0.0)
    last = tl.load(positions + token * position_row)
    longest = tl.max(last, 0) + 1
    most = tl.full([TOKENS * PADDED], -float("inf"), tl.float32)
    total = tl.zeros([TOKENS * PADDED], tl.float32)
    mixed = tl.zeros([TOKENS * PADDED, HEAD_DIM], tl.float32)
    for start in range(0, longest, PART):
        part_most, part_total, part_mixed = _part(
            q, keys, values, key_scales, value_scales, scale, table + tile * table_row, table_column, last, longest,
            start, head, KV_HEADS, HEAD_DIM, BLOCK_SIZE, PART, QUANTIZED,
        )  # fmt: skip
        # The first part of every row has position 0, so the largest score is finite from then on.
        most, total, mixed = _merged(most, total, mixed, part_most, part_total, part_mixed)
    tl.store(out + query_at, (mixed / total[:, None]).to(q.dtype), mask=inside)
