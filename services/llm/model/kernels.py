"""The parts of a step that have several implementations, and the plain one of each, on torch's operations.

`PLAIN` runs on any device and is the reference. `layer_kernels`, `paged_kernel` and `sampling_kernels` replace groups
of it by Triton kernels on CUDA. The implementations of a part differ by rounding only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.llm.model import columns
from services.llm.model.attention import rotate
from services.llm.model.kv_cache import KVCache, StepBatch
from services.llm.model.sampling import CounterDraw, SamplingBatch
from services.llm.model.sampling import sample as sample_rows


class Embed(Protocol):
    """Look input codes up in the tables of text, special and speech rows."""

    def __call__(self, codes: Tensor, text: Tensor, special: Tensor | None, speech: Tensor) -> Tensor:
        """Codes [N] are text ids, then two of the special rows, then speech ids; returns float32 [N, hidden].

        Without special rows their codes are not used.
        """


class Open(Protocol):
    """Clear the blocks that a batch is the first to write to, except the spare block."""

    def __call__(self, batch: StepBatch, cache: KVCache) -> None: ...


class AddNorm(Protocol):
    """Add a layer's output to the residual stream, then normalise for the next layer."""

    def __call__(self, x: Tensor, delta: Tensor | None, norm: nn.RMSNorm, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return float32 x + delta, which may be in the memory of x [N, hidden], and its norm in `dtype`."""


class RotateAndStore(Protocol):
    """Rotate queries and keys to their positions, and write keys and values into the cache."""

    def __call__(
        self, qkv: Tensor, rotary: tuple[Tensor, Tensor], layer: int, batch: StepBatch, cache: KVCache
    ) -> Tensor:
        """qkv [N, (heads + 2 * kv_heads) * head_dim]; returns the queries [N, kv_heads, group, head_dim]."""


class Attend(Protocol):
    """Attention of the D decoding sequences, one token each."""

    def __call__(self, query: Tensor, layer: int, batch: StepBatch, cache: KVCache) -> Tensor:
        """query [D, kv_heads, group, head_dim]; returns the same shape."""


class AttendTiles(Protocol):
    """Causal attention of a batch's tiles, its last tokens."""

    def __call__(self, query: Tensor, layer: int, table: Tensor, batch: StepBatch, cache: KVCache) -> Tensor:
        """query [tokens, kv_heads, group, head_dim], table [tiles, W] of blocks; returns the query's shape."""


class SiluUp(Protocol):
    """The gate of the feed-forward part."""

    def __call__(self, gate_up: Tensor) -> Tensor:
        """Return silu(gate) * up [N, width] of gate and up side by side [N, 2 * width]."""


class Sample(Protocol):
    """Draw an id per row by the counter-based noise of `sampling.CounterDraw`."""

    def __call__(self, logits: Tensor, batch: SamplingBatch, bans: Tensor, kinds: Tensor) -> Tensor:
        """logits [B, S] float32; row b may not draw the ids of mask `bans[kinds[b]]`. Return ids [B] like `sample`."""


class Advance(Protocol):
    """Make the sampled ids a program's next inputs; see `columns.advance`."""

    def __call__(self, numbers: Tensor, drawn: Tensor, block_size: int, spare: int, speech_code: int) -> None: ...


def embed(codes: Tensor, text: Tensor, special: Tensor | None, speech: Tensor) -> Tensor:
    """Look up every code in every table, then select. See `Embed`."""
    text_vocab = text.shape[0]
    x = F.embedding(codes.clamp(max=text_vocab - 1), text)
    x = torch.where((codes < text_vocab)[:, None], x, F.embedding((codes - text_vocab - 2).clamp(min=0), speech))
    if special is not None:
        is_special = (codes >= text_vocab) & (codes < text_vocab + 2)
        x = torch.where(is_special[:, None], F.embedding((codes - text_vocab).clamp(0, 1), special), x)
    return x.float()


def open_blocks(batch: StepBatch, cache: KVCache) -> None:
    """See `Open`."""
    cache.open(batch)


def add_norm(x: Tensor, delta: Tensor | None, norm: nn.RMSNorm, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """See `AddNorm`."""
    if delta is not None:
        x = x + delta
    return x, norm(x).to(dtype)


def rotate_and_store(
    qkv: Tensor, rotary: tuple[Tensor, Tensor], layer: int, batch: StepBatch, cache: KVCache
) -> Tensor:
    """See `RotateAndStore`."""
    tokens, kv_heads, head_dim = qkv.shape[0], cache.keys.shape[2], cache.keys.shape[4]
    states = qkv.view(tokens, -1, head_dim)
    heads = states.shape[1] - 2 * kv_heads
    rotated = rotate(states[:, : heads + kv_heads], rotary)
    cache.write(layer, batch, rotated[:, heads:], states[:, heads + kv_heads :])
    return rotated[:, :heads].reshape(tokens, kv_heads, -1, head_dim)


def gathered(query: Tensor, layer: int, batch: StepBatch, cache: KVCache) -> Tensor:
    """Copy each sequence's blocks side by side, then one masked attention for all. See `Attend`."""
    keys, values = cache.read(layer, batch.decode_table)
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=batch.decode_mask)


def gathered_tiles(query: Tensor, layer: int, table: Tensor, batch: StepBatch, cache: KVCache) -> Tensor:
    """Copy the blocks of each tile's sequence side by side, then one masked attention for all. See `AttendTiles`."""
    tokens, kv_heads, group, head_dim = query.shape
    tiles = table.shape[0]
    keys, values = cache.read(layer, table)
    positions = batch.positions[-tokens:].view(tiles, 1, -1, 1)
    mask = torch.arange(keys.shape[2], device=query.device) <= positions
    # Query heads that share a K/V head become more queries of it, so K/V are never repeated.
    folded = query.view(tiles, -1, kv_heads, group, head_dim).permute(0, 2, 3, 1, 4).flatten(2, 3)
    out = F.scaled_dot_product_attention(folded, keys, values, attn_mask=mask.repeat(1, 1, group, 1))
    return out.view(tiles, kv_heads, group, -1, head_dim).permute(0, 3, 1, 2, 4).reshape(query.shape)


def silu_up(gate_up: Tensor) -> Tensor:
    """See `SiluUp`."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def sample(logits: Tensor, batch: SamplingBatch, bans: Tensor, kinds: Tensor) -> Tensor:
    """See `Sample`."""
    return sample_rows(logits, batch, bans[kinds], CounterDraw(batch))


@dataclass(frozen=True)
class StepKernels:
    """The interface between the model and its kernels: an implementation of each part."""

    embed: Embed = embed
    open: Open = open_blocks
    add_norm: AddNorm = add_norm
    rotate_and_store: RotateAndStore = rotate_and_store
    attend: Attend = gathered
    attend_tiles: AttendTiles = gathered_tiles
    silu_up: SiluUp = silu_up
    sample: Sample = sample
    advance: Advance = columns.advance


PLAIN = StepKernels()
