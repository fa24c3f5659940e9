"""Attention over several tokens of one sequence, and rotary embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def causal(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Attention of several tokens of one sequence.

    query [tokens, kv_heads, group, head_dim], keys and values [1, kv_heads, positions, head_dim], mask [tokens,
    positions]; returns the query's shape. Query heads that share a K/V head become more queries of it, so K/V are never
    repeated.
    """
    tokens, kv_heads, group, head_dim = query.shape
    folded = query.permute(1, 2, 0, 3).reshape(1, kv_heads, group * tokens, head_dim)
    out = F.scaled_dot_product_attention(folded, keys, values, attn_mask=mask.repeat(group, 1))
    return out.view(kv_heads, group, tokens, head_dim).permute(2, 0, 1, 3)


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Half-split rotary embedding of x [N, heads, head_dim], computed in float32."""
    cos, sin = rotary
    low, high = x.float().chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(x.dtype)


def rotary_table(positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Return cos and sin [N, 1, head_dim / 2] in float32 for positions [N]."""
    angle = (positions.float()[:, None] * frequencies)[:, None, :]
    return angle.cos(), angle.sin()


def rotary_frequencies(head_dim: int, theta: float, device: torch.device) -> Tensor:
    """Return the angle per position of each pair of values [head_dim / 2] in float32."""
    half = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32)
    return theta ** -(half / head_dim)
