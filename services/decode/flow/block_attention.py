"""Attention of a program's new frames over the blocks of the cache: the seam for a kernel that reads blocks in place.

`PlainAttention` is the reference. It writes the new keys and values, gathers the blocks of every stream into one tensor
and calls PyTorch's attention; a kernel needs no gathered copy and no mask. An estimator calls `ForwardContext.attend`
with keys that are already rotated, so a kernel knows nothing of positions but the mask. Head count and head size are
the checkpoint's (CosyVoice2: 8 heads of 64, CosyVoice3: 16 of 64).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from services.decode.flow.kv_cache import KvCache


@dataclass(frozen=True)
class Batch:
    """The streams of one step: device tensors of fixed shape, S streams, N new frames each, B blocks each."""

    step: Tensor
    """int64 [1], the Euler step."""
    starts: Tensor
    """int64 [S, 1], the absolute frame of each stream's first new one."""
    lengths: Tensor
    """int64 [S, 1], the valid new frames; the others are padding, which is stored in the cache's spare block."""
    ends: Tensor
    """int64 [S, N]: new frame n of stream s attends to the absolute frames before ends[s, n], at least frame 0."""
    blocks: Tensor
    """int64 [S, B], each stream's blocks in order; missing ones repeat the first, so that they hold finite values."""


Attention = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""`ForwardContext.attend` of one step: layer, q, k, v [rows * S, N, heads, d] -> [rows * S, N, heads * d]."""
MakeAttention = Callable[[KvCache, Batch, torch.dtype], Attention]
"""Makes the attention of one step. Both run inside a CUDA graph: no allocation outside the graph's pool, no reading
back, and no shape may depend on a value. The type is the estimator's; the cache may store another one."""


class PlainAttention:
    """The reference: gathered blocks, an additive mask, `scaled_dot_product_attention`."""

    def __init__(self, cache: KvCache, batch: Batch, dtype: torch.dtype) -> None:
        layout, size = cache.layout, cache.layout.positions
        self._cache = cache
        frame = torch.arange(batch.ends.shape[1], device=batch.ends.device)
        position = batch.starts + frame
        block = batch.blocks.gather(1, (position // size).clamp(max=batch.blocks.shape[1] - 1))
        spare = (cache.blocks - 1) * size
        place = (block * size + position % size).masked_fill_(frame >= batch.lengths, spare)
        # One row of indices per layer, for keys and values of every guidance row: counted over the whole cache.
        layer = torch.arange(layout.layers, device=frame.device)
        plane = torch.arange(2 * layout.rows, device=frame.device)
        first = ((batch.step * layout.layers + layer)[:, None] * 2 * layout.rows + plane)[:, :, None] * cache.blocks
        self._places = (first * size + place.flatten()).flatten(1)
        self._blocks = (first + batch.blocks.flatten()).flatten(1)
        seen = torch.arange(batch.blocks.shape[1] * size, device=frame.device) < batch.ends[:, :, None]
        mask = torch.zeros(seen.shape, dtype=dtype, device=frame.device).masked_fill_(~seen, float("-inf"))
        self._mask = mask.repeat(layout.rows, 1, 1)[:, None]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """Store k and v, then attend; `bias` [rows * S, heads, N, B * positions] is added to the scores."""
        heads, width = k.shape[2:]
        self._cache.write_flat(self._places[layer], torch.stack((k, v)).view(-1, heads * width))
        kept = self._cache.read_flat(self._blocks[layer], k.dtype)
        keys, values = kept.view(2, k.shape[0], -1, heads, width).transpose(2, 3)
        mask = self._mask if bias is None else bias + self._mask
        out = F.scaled_dot_product_attention(q.transpose(1, 2), keys, values, attn_mask=mask)
        return out.transpose(1, 2).flatten(2)
