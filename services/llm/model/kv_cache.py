"""The paged K/V cache, and the batch of one step over it.

Keys and values of all sequences share two tensors, divided into blocks of `block_size` slots. A sequence owns a list of
blocks; its token p is in block `blocks[p // block_size]` at offset `p % block_size`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.common.checkpoint.model_dir import LlmConfig
from services.llm.alignment.queries import QueryTap
from services.llm.model.int8 import quantize


def kv_cache_bytes(
    config: LlmConfig, num_blocks: int, block_size: int, dtype: torch.dtype, quantized: bool = False
) -> int:
    """Return the bytes of a `KVCache`, its buffer for reading excluded."""
    slots = config.num_layers * num_blocks * config.num_kv_heads * block_size
    return 2 * slots * (config.head_dim + 4 if quantized else config.head_dim * dtype.itemsize)


def read_buffer_bytes(config: LlmConfig, sequences: int, width: int, block_size: int, stored: torch.dtype) -> int:
    """Return the bytes of the buffer that `KVCache.read` makes for [sequences, width] blocks of type `stored`."""
    rows = _buffer_rows(sequences * width * config.num_kv_heads)
    return 2 * rows * block_size * config.head_dim * stored.itemsize


def _buffer_rows(wanted: int) -> int:
    """Rows of a new buffer: more than `wanted`, so that a growing table does not need another one each time."""
    return 2 * wanted


class KVCache:
    """`keys` and `values`: [layers, blocks, kv_heads, block_size, head_dim].

    If quantised, they hold int8, and `key_scales` and `value_scales` [layers, blocks, kv_heads, block_size, 1] hold the
    scale of each slot.
    """

    def __init__(
        self,
        config: LlmConfig,
        num_blocks: int,
        block_size: int,
        device: torch.device,
        dtype: torch.dtype,
        *,
        quantized: bool = False,
    ) -> None:
        """`dtype` is the type in which attention computes."""
        self.block_size = block_size
        self.rows_per_block = config.num_kv_heads * block_size
        """Rows of `host_keys` per block: offset o of K/V head h is row `h * block_size + o` of its block."""
        self.dtype = dtype
        shape = (config.num_layers, num_blocks, config.num_kv_heads, block_size, config.head_dim)
        stored = torch.int8 if quantized else dtype
        self.keys = torch.zeros(shape, device=device, dtype=stored)
        self.values = torch.zeros(shape, device=device, dtype=stored)
        scales = (*shape[:-1], 1 if quantized else 0)
        self.key_scales = torch.zeros(scales, device=device)
        self.value_scales = torch.zeros(scales, device=device)
        self._gathered = torch.empty((2, 0, block_size, config.head_dim), device=device, dtype=stored)

    @property
    def read_buffer(self) -> Tensor:
        """The memory of the latest reads, [2, rows, block_size, head_dim]."""
        return self._gathered

    @property
    def quantized(self) -> bool:
        return self.keys.dtype == torch.int8

    @cached_property
    def host_keys(self) -> list[NDArray[np.float32]] | None:
        """Each layer's keys as rows [blocks * kv_heads * block_size, head_dim], in the same memory.

        None unless they are float32 on a CPU.
        """
        if self.keys.device.type != "cpu" or self.keys.dtype != torch.float32:
            return None
        return [layer.flatten(0, 2).numpy() for layer in self.keys]

    def open(self, batch: StepBatch) -> None:
        """Clear the blocks that the batch is the first to write to.

        Slots beyond a sequence's end are masked, but a NaN that a failed sequence left there would pass the mask.
        """
        opened = batch.opened
        if batch.spare is not None and opened.device.type == "cpu":  # choosing rows would stop a GPU
            opened = opened[opened != batch.spare]
        for stored in self.cleared:
            stored.index_fill_(1, opened, 0)

    @property
    def cleared(self) -> tuple[Tensor, Tensor]:
        """The tensors [layers, blocks, …] that `open` clears: the scales make 8-bit values zero."""
        return (self.key_scales, self.value_scales) if self.quantized else (self.keys, self.values)

    def write(self, layer: int, batch: StepBatch, keys: Tensor, values: Tensor) -> None:
        """Store the keys and values [N, kv_heads, head_dim] of the batch's tokens."""
        where = (batch.blocks, slice(None), batch.offsets)
        if self.quantized:
            keys, self.key_scales[layer][where] = quantize(keys)
            values, self.value_scales[layer][where] = quantize(values)
        self.keys[layer][where] = keys
        self.values[layer][where] = values

    def write_layers(self, blocks: Tensor, offsets: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store the keys and values [layers, N, kv_heads, head_dim] of N tokens in all layers."""
        where = (slice(None), blocks, slice(None), offsets)
        # Two index tensors with a slice between them put the tokens first.
        keys, values = keys.transpose(0, 1), values.transpose(0, 1)
        if self.quantized:
            keys, self.key_scales[where] = quantize(keys)
            values, self.value_scales[where] = quantize(values)
        self.keys[where] = keys
        self.values[where] = values

    def read(self, layer: int, table: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values [B, kv_heads, W * block_size, head_dim] of the blocks in `table` [B, W].

        They are valid until the next read: all reads share one buffer, because an allocation per read costs several
        times as much as the copy.
        """
        sequences, width = table.shape
        kv_heads, head_dim = self.keys.shape[2], self.keys.shape[4]
        heads = torch.arange(kv_heads, device=table.device)
        rows = (table[:, None, :] * kv_heads + heads[:, None]).flatten()
        if rows.numel() > self._gathered.shape[1]:
            self._gathered = self._gathered.new_empty((2, _buffer_rows(rows.numel()), *self._gathered.shape[2:]))
        both = []
        sides = ((self.keys, self.key_scales), (self.values, self.value_scales))
        for (stored, scales), buffer in zip(sides, self._gathered, strict=True):
            out = buffer[: rows.numel()]
            torch.index_select(stored[layer].flatten(0, 1), 0, rows, out=out)
            if self.quantized:
                out = (out * scales[layer].flatten(0, 1)[rows]).to(self.dtype)
            both.append(out.view(sequences, kv_heads, width * self.block_size, head_dim))
        return both[0], both[1]

    def keys_at(self, layer: int, kv_head: int, blocks: Tensor, offsets: Tensor) -> Tensor:
        """Return a head's float32 keys [..., head_dim] in the slots of `blocks` and `offsets` [...]."""
        where = (blocks, kv_head, offsets)
        keys = self.keys[layer][where].float()
        return keys * self.key_scales[layer][where] if self.quantized else keys


@dataclass(frozen=True)
class SequenceInput:
    """Input of one sequence in a step: `codes` at positions `start`, `start + 1`, …; `blocks` hold its K/V."""

    codes: Sequence[int]
    start: int
    blocks: Sequence[int]


@dataclass(frozen=True)
class Segment:
    """Several tokens of one sequence: tokens `begin:end` of the batch."""

    begin: int
    end: int
    table: Tensor
    """[1, W] its blocks up to the last of these tokens."""
    mask: Tensor
    """[end - begin, W * block_size] true where a token attends to a position."""


@dataclass(frozen=True)
class StepBatch:
    """The N tokens of one step: first one for each of D decoding sequences, then the segments, then the tiles."""

    codes: Tensor
    """[N] input codes."""
    positions: Tensor
    """[N]"""
    blocks: Tensor
    """[N] the block of each token's own K/V."""
    offsets: Tensor
    """[N] the offset in that block."""
    opened: Tensor
    """Blocks to which this step writes first."""
    last: Tensor
    """[sequences] index of each sequence's last token, in the order of `build_batch`'s sequences."""
    decode_table: Tensor
    """[D, W] the blocks of each decoding sequence, padded with its first."""
    decode_lengths: Tensor
    """[D] number of positions that each decoding sequence attends to, the new one included."""
    block_size: int
    segments: tuple[Segment, ...] = ()
    tile_table: Tensor | None = None
    """[T, W] the blocks of each tile's sequence. A tile is the same number of consecutive tokens of one sequence."""
    spare: int | None = None
    """The block that rows without a sequence use; None if there are no such rows."""
    tap: QueryTap | None = None
    """Takes the queries of each sequence's last token, if they are needed."""

    @cached_property
    def decode_mask(self) -> Tensor:
        """[D, 1, 1, W * block_size] `decode_lengths` as a mask: true for these positions."""
        return valid_positions(self.decode_table, self.decode_lengths, self.block_size)[:, None, None, :]


def build_batch(
    inputs: Sequence[SequenceInput], block_size: int, device: torch.device, tap: QueryTap | None = None
) -> StepBatch:
    """Flatten the inputs of a step, single tokens first."""
    order = sorted(range(len(inputs)), key=lambda i: len(inputs[i].codes) > 1)
    codes: list[int] = []
    positions: list[int] = []
    blocks: list[int] = []
    last = [0] * len(inputs)
    segments = []
    for i in order:
        item = inputs[i]
        begin, stop = len(codes), item.start + len(item.codes)
        codes.extend(item.codes)
        positions.extend(range(item.start, stop))
        blocks.extend(item.blocks[p // block_size] for p in range(item.start, stop))
        last[i] = len(codes) - 1
        if len(item.codes) > 1:
            table, _ = _block_table([item], block_size, device)
            visible = torch.arange(table.shape[1] * block_size, device=device)
            causal = visible <= torch.arange(item.start, stop, device=device)[:, None]
            segments.append(Segment(begin, begin + len(item.codes), table, causal))
    decode_table, decode_lengths = _block_table([item for item in inputs if len(item.codes) == 1], block_size, device)
    offsets = [p % block_size for p in positions]
    opened = [block for block, offset in zip(blocks, offsets, strict=True) if offset == 0]
    return StepBatch(
        codes=torch.tensor(codes, device=device),
        positions=torch.tensor(positions, device=device),
        blocks=torch.tensor(blocks, device=device),
        offsets=torch.tensor(offsets, device=device),
        opened=torch.tensor(opened, device=device, dtype=torch.long),
        decode_table=decode_table,
        decode_lengths=decode_lengths,
        block_size=block_size,
        last=torch.tensor(last, device=device),
        segments=tuple(segments),
        tap=tap,
    )


def _block_table(inputs: Sequence[SequenceInput], block_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the block table [B, W] up to each sequence's last token, and the numbers of positions [B]."""
    lengths = [item.start + len(item.codes) for item in inputs]
    width = -(-max(lengths, default=0) // block_size)
    rows = [(list(item.blocks[:width]) + [item.blocks[0]] * width)[:width] for item in inputs]
    table = torch.tensor(rows, device=device, dtype=torch.long).reshape(len(inputs), width)
    return table, torch.tensor(lengths, device=device, dtype=torch.long)


def valid_positions(table: Tensor, lengths: Tensor, block_size: int) -> Tensor:
    """Return which positions in the blocks of `table` [B, W] are below `lengths` [B]: [B, W * block_size]."""
    return torch.arange(table.shape[1] * block_size, device=table.device) < lengths[:, None]
