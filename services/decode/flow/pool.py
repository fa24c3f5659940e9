"""Where streams' pasts live: blocks of one chunk in one arena per network, taken and given back by number.

A `Past` is a list of blocks and never changes: a hop makes a new one, which shares every block of the one before and
adds fresh ones. So a hop that fails leaves its stream as it was, streams of one voice share the prompt's blocks, and
evicting a stream is forgetting its past: a block is free again when the last past that holds it is gone.
"""

from __future__ import annotations

import contextlib
import mmap
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

FP8_MAX = torch.finfo(torch.float8_e4m3fn).max


@dataclass(frozen=True)
class Layout:
    """What one network keeps per position: keys and values of `layers` in each of `steps`, for `rows` batch rows."""

    layers: int
    positions: int
    """Positions of one block."""
    heads: int
    head_dim: int
    steps: int = 1
    rows: int = 1

    @property
    def block_values(self) -> int:
        return 2 * self.layers * self.steps * self.rows * self.positions * self.heads * self.head_dim


class _Number:
    """A block's or a slot's place in the arenas; the place is free again when nobody holds the number any more."""

    __slots__ = ("__weakref__", "index")

    def __init__(self, index: int, free: set[int]) -> None:
        self.index = index
        weakref.finalize(self, free.add, index).atexit = False


@dataclass(frozen=True, eq=False)
class Past:
    """What the flow remembers of a stream's first `tokens` tokens."""

    tokens: int = 0
    blocks: tuple[_Number, ...] = field(default=(), repr=False)
    slot: _Number | None = field(default=None, repr=False)
    """Where the convolutions' tails are; None at a stream's beginning, where they are zero."""


EMPTY = Past()


class PastPool:
    """A fixed number of blocks, each room for `block_tokens` tokens of one stream.

    On a CPU the arenas are pages that the system gives out when they are first written: an unused block costs nothing.
    They hold one block and one slot more than are given out: where programs of fixed shape write what no
    stream wants. Values are kept as `dtype`; float8_e4m3fn carries a float32 scale per position and row.
    """

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        block_tokens: int,
        blocks: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        if blocks < 0 or block_tokens < 1:
            raise ValueError(f"a pool of {blocks} blocks of {block_tokens} tokens makes no sense")
        self.block_tokens, self.blocks = block_tokens, blocks
        self.block_bytes = block_bytes(layouts, dtype)
        self.arenas = {name: Arena(layout, blocks, dtype, device) for name, layout in layouts.items()}
        self._free = set(range(blocks))
        self._suspect: set[int] = set()
        self._slots = set(range(1, blocks + 2))  # slot 0 stays zero: the beginning of every stream

    @property
    def free_blocks(self) -> int:
        return len(self._free)

    def missing(self, past: Past, end: int) -> int:
        """How many blocks `past` still needs to reach `end` tokens."""
        return -(-end // self.block_tokens) - len(past.blocks)

    def extend(self, past: Past, end: int) -> Past | None:
        """A past with room for tokens up to `end`, sharing what `past` holds; None when the pool has no room."""
        wanted = self.missing(past, end)
        if wanted > len(self._free) or not self._slots:
            return None
        blocks = list(past.blocks)
        for _ in range(wanted):
            blocks.append(self._take(blocks[-1].index if blocks else None))
        slot = self._slots.pop()
        return Past(end, tuple(blocks), _Number(slot, self._slots))

    def suspect(self, past: Past) -> None:
        """Has blocks that may hold values that are not finite, which no mask hides, overwritten before their next use.

        Not at once: a voice's other streams may be reading some of them.
        """
        self._suspect.update(block.index for block in past.blocks)

    def _take(self, after: int | None) -> _Number:
        """The block behind `after` if it is free, so that a stream's blocks can be read without gathering them."""
        index = after + 1 if after is not None and after + 1 in self._free else self._roomiest()
        self._free.remove(index)
        if index in self._suspect:
            self._suspect.remove(index)
            for arena in self.arenas.values():
                arena.scrub(index)
        return _Number(index, self._free)

    def _roomiest(self) -> int:
        """The middle of the longest free run, its beginning when that is the arena's."""
        free = sorted(self._free)
        breaks = [0, *(i for i, (a, b) in enumerate(pairwise(free), start=1) if b != a + 1), len(free)]
        start, end = max(pairwise(breaks), key=lambda run: run[1] - run[0])
        return free[start] if free[start] == 0 else free[(start + end) // 2]


def block_bytes(layouts: Mapping[str, Layout], dtype: torch.dtype) -> int:
    """Memory of one block, scales included."""
    values = sum(layout.block_values for layout in layouts.values())
    if dtype != torch.float8_e4m3fn:
        return values * dtype.itemsize
    return values + sum(4 * layout.block_values // (layout.heads * layout.head_dim) for layout in layouts.values())


class Arena:
    """Keys, values and convolution tails of one network, for every block and slot of the pool.

    Where the step is a number, `write`, `read` and `tails` take one step's part; where only the device knows it, the
    step is part of the index that `write_anywhere`, `read_anywhere` and `all_tails` take.
    """

    def __init__(self, layout: Layout, blocks: int, dtype: torch.dtype, device: torch.device | None) -> None:
        self.layout, self._device = layout, device
        self.blocks, self.slots = blocks + (blocks > 0), blocks + 3
        """The last of each is the spare one; nobody reads what is written there."""
        self._scaled = dtype == torch.float8_e4m3fn
        self._dtype = dtype
        shape = (layout.steps * layout.layers, 2, layout.rows, self.blocks, layout.positions)
        stored = torch.uint8 if self._scaled else dtype  # index operations know bytes, not float8
        self._values = _zeros((*shape, layout.heads * layout.head_dim), stored, device)
        self._scales = _zeros((*shape, 1), torch.float32, device) if self._scaled else None
        self._tails: dict[int, Tensor] = {}

    def write(self, step: int, layer: int, at: Tensor | slice, keys_values: Tensor) -> None:
        """Puts [2, rows, n, heads * head_dim] at n positions of the arena, counted over its blocks."""
        where = step * self.layout.layers + layer
        values, scales = self._packed(keys_values)
        self._values[where].flatten(2, 3)[:, :, at] = values
        if self._scales is not None and scales is not None:
            self._scales[where].flatten(2, 3)[:, :, at] = scales

    def read(self, step: int, layer: int, blocks: Tensor | slice, dtype: torch.dtype) -> Tensor:
        """The positions of `blocks` in order: [2, rows, blocks * positions, heads * head_dim]; a view where it can."""
        where = step * self.layout.layers + layer
        values = _pick(self._values[where], blocks).flatten(2, 3)
        scales = None if self._scales is None else _pick(self._scales[where], blocks).flatten(2, 3)
        return _unpacked(values, scales, dtype)

    def write_anywhere(self, at: Tensor, keys_values: Tensor) -> None:
        """Puts [n, heads * head_dim] at n positions, counted over steps, layers, keys and values, rows and blocks."""
        values, scales = self._packed(keys_values)
        self._values.flatten(0, 4).index_copy_(0, at, values)
        if self._scales is not None and scales is not None:
            self._scales.flatten(0, 4).index_copy_(0, at, scales)

    def read_anywhere(self, at: Tensor, dtype: torch.dtype) -> Tensor:
        """n blocks, counted over steps, layers, keys and values, and rows: [n, positions, heads * head_dim]."""
        values = self._values.flatten(0, 3).index_select(0, at)
        scales = None if self._scales is None else self._scales.flatten(0, 3).index_select(0, at)
        return _unpacked(values, scales, dtype)

    def tails(self, step: int, layer: int, width: int, channels: int, dtype: torch.dtype) -> Tensor:
        """One convolution's tails of every slot: [rows, slots, width, channels]."""
        return self.all_tails(layer, width, channels, dtype)[step]

    def all_tails(self, layer: int, width: int, channels: int, dtype: torch.dtype) -> Tensor:
        """One convolution's tails of every step: [steps, rows, slots, width, channels]."""
        if layer not in self._tails:
            shape = (self.layout.steps, self.layout.rows, self.slots, width, channels)
            self._tails[layer] = _zeros(shape, dtype, self._device)
        return self._tails[layer]

    def _packed(self, keys_values: Tensor) -> tuple[Tensor, Tensor | None]:
        """As they are stored; with scales [..., 1] in float8."""
        if not self._scaled:
            return keys_values.to(self._dtype), None
        scales = keys_values.abs().amax(dim=-1, keepdim=True).float().clamp_min(1e-12) / FP8_MAX
        return (keys_values.float() / scales).to(torch.float8_e4m3fn).view(torch.uint8), scales

    def scrub(self, block: int) -> None:
        self._values[:, :, :, block].zero_()
        if self._scales is not None:
            self._scales[:, :, :, block].zero_()


def _unpacked(values: Tensor, scales: Tensor | None, dtype: torch.dtype) -> Tensor:
    if scales is None:
        return values.to(dtype)
    return (values.view(torch.float8_e4m3fn).to(scales.dtype) * scales).to(dtype)


def _pick(values: Tensor, blocks: Tensor | slice) -> Tensor:
    return values[:, :, blocks] if isinstance(blocks, slice) else values.index_select(2, blocks)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | None) -> Tensor:
    """Zeros; on a CPU pages of their own, taken when they are first written, as `torch.zeros` would write them all.

    Small pages: what a block holds lies far apart, one piece per step and layer, and a huge page for each would take a
    gigabyte for a stream's first second. NumPy asks for huge ones.
    """
    if (device is not None and device.type != "cpu") or 0 in shape:
        return torch.zeros(shape, dtype=dtype, device=device)
    pages = mmap.mmap(-1, prod(shape) * dtype.itemsize)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages knows no such advice
            pages.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype).view(shape)
