"""The paged K/V cache, and one step's rows laid out over it.

Keys and values of all sequences share two tensors cut into blocks of `block_size` rows; a sequence owns a list of
blocks, and row p of it lies in slot `blocks[p // block_size] * block_size + p % block_size`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.common.modeldir import LlmConfig


class KVCache:
    """`keys` and `values`: [layers, slots, kv_heads, head_dim]."""

    def __init__(
        self, config: LlmConfig, num_blocks: int, block_size: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.block_size = block_size
        shape = (config.num_layers, num_blocks * block_size, config.num_kv_heads, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)


@dataclass(frozen=True)
class Rows:
    """What one sequence feeds in a step: `codes` at positions `start`, `start + 1`, …; `blocks` hold its K/V."""

    codes: Sequence[int]
    start: int
    blocks: Sequence[int]


@dataclass(frozen=True)
class Segment:
    """Several rows of one sequence: rows `begin:end` of the batch see `slots` [L] under `mask` [end - begin, L]."""

    begin: int
    end: int
    slots: Tensor
    mask: Tensor


@dataclass(frozen=True)
class StepBatch:
    """The N rows of one step: first one row for each of D decoding sequences, then the segments."""

    codes: Tensor
    """[N] input codes."""
    positions: Tensor
    """[N]"""
    slots: Tensor
    """[N] where each row's own K/V goes."""
    last: Tensor
    """[sequences] each sequence's last row, in the order the sequences were given."""
    decode_slots: Tensor
    """[D, L] the slots each decoding row sees, padded with a slot of its own."""
    decode_mask: Tensor
    """[D, 1, 1, L] true where a slot counts."""
    segments: tuple[Segment, ...]


def lay_out(items: Sequence[Rows], block_size: int, device: torch.device) -> StepBatch:
    """Flattens the rows of a step, single rows first."""
    order = sorted(range(len(items)), key=lambda i: len(items[i].codes) > 1)
    single = [items[i] for i in order if len(items[i].codes) == 1]
    codes: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    last = [0] * len(items)
    segments = []
    for i in order:
        item = items[i]
        begin, stop = len(codes), item.start + len(item.codes)
        codes.extend(item.codes)
        positions.extend(range(item.start, stop))
        slots.extend(item.blocks[p // block_size] * block_size + p % block_size for p in range(item.start, stop))
        last[i] = len(codes) - 1
        if len(item.codes) > 1:
            segments.append(_segment(item, begin, block_size, device))
    decode_slots, decode_mask = _decode_context(single, block_size, device)
    return StepBatch(
        codes=torch.tensor(codes, device=device),
        positions=torch.tensor(positions, device=device),
        slots=torch.tensor(slots, device=device),
        last=torch.tensor(last, device=device),
        decode_slots=decode_slots,
        decode_mask=decode_mask,
        segments=tuple(segments),
    )


def _segment(item: Rows, begin: int, block_size: int, device: torch.device) -> Segment:
    stop = item.start + len(item.codes)
    blocks = torch.tensor(item.blocks[: -(-stop // block_size)], device=device)
    slots = (blocks[:, None] * block_size + torch.arange(block_size, device=device)).flatten()[:stop]
    queries = torch.arange(item.start, stop, device=device)
    mask = torch.arange(stop, device=device)[None, :] <= queries[:, None]
    return Segment(begin, begin + len(item.codes), slots, mask)


def _decode_context(items: Sequence[Rows], block_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    lengths = [item.start + 1 for item in items]
    width = -(-max(lengths, default=0) // block_size)
    tables = [(list(item.blocks[:width]) + [item.blocks[0]] * width)[:width] for item in items]
    blocks = torch.tensor(tables, device=device, dtype=torch.long).reshape(len(items), width)
    slots = (blocks[:, :, None] * block_size + torch.arange(block_size, device=device)).flatten(1)
    mask = torch.arange(width * block_size, device=device) < torch.tensor(lengths, device=device)[:, None]
    # Padding names the sequence's own first slot: whatever another sequence left in a block (NaN included) is not read.
    slots = torch.where(mask, slots, blocks[:, :1] * block_size)
    return slots, mask[:, None, None, :]
