"""Attention of decoding sequences that reads K/V blocks in place: a Triton kernel, for CUDA.

One program handles one sequence and one K/V head: it iterates over the sequence's positions in tiles, for all query
heads that share the K/V head, and keeps the running maximum and sum of the softmax. It reads the sequence's length from
device memory, so one launch fits any mixture of lengths and can be part of a CUDA graph. This module needs the triton
package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor

if TYPE_CHECKING:
    from services.llm.model.kv_cache import KVCache, StepBatch

TILE = 64
"""Positions per iteration of the loop."""
SMALLEST_DOT = 16
"""Fewest rows that the matrix units accept; the group of query heads is padded to this number."""


def paged(query: Tensor, layer: int, batch: StepBatch, cache: KVCache) -> Tensor:
    """See `services.llm.model.kv_cache.DecodeAttention`."""
    sequences, kv_heads, group, head_dim = query.shape
    query = query.contiguous()
    out = torch.empty_like(query)
    _attend[(sequences, kv_heads)](
        query,
        cache.keys[layer],
        cache.values[layer],
        cache.key_scales[layer],
        cache.value_scales[layer],
        batch.decode_table,
        batch.decode_lengths,
        out,
        head_dim**-0.5,
        batch.decode_table.stride(0),
        batch.decode_table.stride(1),
        batch.decode_lengths.stride(0),
        KV_HEADS=kv_heads,
        GROUP=group,
        PADDED=max(SMALLEST_DOT, triton.next_power_of_2(group)),
        HEAD_DIM=head_dim,
        BLOCK_SIZE=cache.block_size,
        TILE=TILE,
        QUANTIZED=cache.quantized,
    )
    return out


# Triton compiles annotations too and rejects names of other modules there, such as Any. So only constants have one.
@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _attend(  # type: ignore[no-untyped-def]
    query,
    keys,
    values,
    key_scales,
    value_scales,
    table,
    lengths,
    out,
    scale,
    table_row,
    table_column,
    length_row,
    KV_HEADS: tl.constexpr,  # noqa: N803 - Triton's spelling of compile-time constants
    GROUP: tl.constexpr,  # noqa: N803
    PADDED: tl.constexpr,  # noqa: N803
    HEAD_DIM: tl.constexpr,  # noqa: N803
    BLOCK_SIZE: tl.constexpr,  # noqa: N803
    TILE: tl.constexpr,  # noqa: N803
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
    most = tl.full([PADDED], -float("inf"), tl.float32)
    total = tl.zeros([PADDED], tl.float32)
    mixed = tl.zeros([PADDED, HEAD_DIM], tl.float32)
    for start in range(0, length, TILE):
        position = start + tl.arange(0, TILE)
        seen = position < length
        block = tl.load(table + row * table_row + position // BLOCK_SIZE * table_column, mask=seen, other=0)
        stored = (block * KV_HEADS + head) * BLOCK_SIZE + position % BLOCK_SIZE
        at = stored[:, None] * HEAD_DIM + dims[None, :]
        k = tl.load(keys + at, mask=seen[:, None], other=0)
        v = tl.load(values + at, mask=seen[:, None], other=0)
        if QUANTIZED:
            k = k.to(tl.float32) * tl.load(key_scales + stored, mask=seen, other=0.0)[:, None]
            v = v.to(tl.float32) * tl.load(value_scales + stored, mask=seen, other=0.0)[:, None]
        scores = tl.dot(q, tl.trans(k.to(q.dtype)), input_precision="ieee") * scale
        scores = tl.where(seen[None, :], scores, -float("inf"))
        larger = tl.maximum(most, tl.max(scores, 1))
        weights = tl.exp(scores - larger[:, None])
        shrink = tl.exp(most - larger)
        total = total * shrink + tl.sum(weights, 1)
        mixed = mixed * shrink[:, None] + tl.dot(weights.to(q.dtype), v.to(q.dtype), input_precision="ieee")
        most = larger
    tl.store(out + query_at, (mixed / total[:, None]).to(q.dtype), mask=inside)
