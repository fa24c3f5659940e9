"""Attention of decoding rows over the paged cache: one query row per sequence, keys and values scattered in blocks.

Two implementations share one signature. `gathered` copies the blocks side by side and uses torch's own kernel; it runs
anywhere. `services.llm.model.paged_kernel.paged` reads the blocks where they lie and runs on CUDA.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from services.llm.model.kv_cache import KVCache, StepBatch


class DecodeAttention(Protocol):
    """The seam between the model and its attention kernels."""

    def __call__(self, query: Tensor, layer: int, batch: StepBatch, cache: KVCache) -> Tensor:
        """query [D, kv_heads, group, head_dim] of `batch`'s D decoding rows; returns the same shape."""


def gathered(query: Tensor, layer: int, batch: StepBatch, cache: KVCache) -> Tensor:
    """Copies each sequence's blocks side by side, then one masked scaled-dot-product attention for all."""
    keys, values = cache.read(layer, batch.decode_table)
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=batch.decode_mask)


def causal(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Several rows of one sequence.

    query [rows, kv_heads, group, head_dim], keys and values [1, kv_heads, positions, head_dim], mask [rows, positions];
    returns the query's shape. Query heads that share a K/V head become more queries of it, so K/V are never repeated.
    """
    rows, kv_heads, group, head_dim = query.shape
    folded = query.permute(1, 2, 0, 3).reshape(1, kv_heads, group * rows, head_dim)
    out = F.scaled_dot_product_attention(folded, keys, values, attn_mask=mask.repeat(group, 1))
    return out.view(kv_heads, group, rows, head_dim).permute(2, 0, 1, 3)


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Half-split rotary embedding of x [N, heads, head_dim], computed in float32."""
    cos, sin = rotary
    low, high = x.float().chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(x.dtype)


def rotary_table(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin [N, 1, head_dim / 2] in float32."""
    half = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    angle = (positions.float()[:, None] * theta ** -(half / head_dim))[:, None, :]
    return angle.cos(), angle.sin()
