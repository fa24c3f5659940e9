"""The paged cache of the flow: blocks of one chunk in one `KvCache` per network, allocated and freed by index.

A `KvState` is an immutable list of blocks: a hop makes a new one, which shares every block of the previous one and adds
new ones. So a hop that fails does not change its stream, streams of one voice share the prompt's blocks, and evicting a
stream is dropping its state: a block is free again once no state refers to it.
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
SCALE_TYPE = torch.bfloat16
"""The largest value of a head is float8's largest one times the scale, within the rounding of this type."""


@dataclass(frozen=True)
class KvLayout:
    """Shape of one network's cache: keys and values of `layers` in each of `steps`, for `rows` batch rows."""

    layers: int
    positions: int
    """Positions of one block."""
    heads: int
    head_dim: int
    steps: int = 1
    rows: int = 1
    tail_values: int = 0
    """Values of the convolutions' tails, of one slot in one step and row."""

    @property
    def block_values(self) -> int:
        return 2 * self.layers * self.steps * self.rows * self.positions * self.heads * self.head_dim

    @property
    def slot_values(self) -> int:
        return self.steps * self.rows * self.tail_values


class _Index:
    """Index of a block or slot in the caches; it is free again once no state refers to this object."""

    __slots__ = ("__weakref__", "index")

    def __init__(self, index: int, free: set[int]) -> None:
        self.index = index
        weakref.finalize(self, free.add, index).atexit = False


@dataclass(frozen=True, eq=False)
class KvState:
    """The cached part of a stream: its first `tokens` tokens."""

    tokens: int = 0
    blocks: tuple[_Index, ...] = field(default=(), repr=False)
    slot: _Index | None = field(default=None, repr=False)
    """Index of the convolutions' tails; None at the start of a stream, where they are zero."""


EMPTY_STATE = KvState()


class KvBlockPool:
    """A fixed number of blocks; each holds `block_tokens` tokens of one stream.

    On a CPU the caches are pages that the system allocates when they are first written: an unused block costs nothing.
    The caches have one spare block and slot, which are never allocated: programs of fixed shape write padding there.
    Values are stored as `dtype`; float8_e4m3fn has a scale per position, row and head.
    """

    def __init__(
        self,
        layouts: Mapping[str, KvLayout],
        block_tokens: int,
        blocks: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        if blocks < 0 or block_tokens < 1:
            raise ValueError(f"a pool of {blocks} blocks of {block_tokens} tokens is invalid")
        self.block_tokens, self.blocks = block_tokens, blocks
        self.block_bytes, self.dtype = block_bytes(layouts, dtype), dtype
        self.caches = {name: KvCache(layout, blocks, dtype, device) for name, layout in layouts.items()}
        self._free = set(range(blocks))
        self._to_zero: set[int] = set()
        self._slots = set(range(1, blocks + 2))  # slot 0 stays zero: the start of every stream

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors; tails exist from the first decoding on."""
        return sum(cache.nbytes for cache in self.caches.values())

    @property
    def free_blocks(self) -> int:
        return len(self._free)

    def missing_blocks(self, state: KvState, end: int) -> int:
        """The number of blocks that `state` needs in addition to reach `end` tokens."""
        return -(-end // self.block_tokens) - len(state.blocks)

    def extend(self, state: KvState, end: int) -> KvState | None:
        """Return a state for tokens up to `end` that shares the blocks of `state`; None if too few blocks are free."""
        wanted = self.missing_blocks(state, end)
        if wanted > len(self._free) or not self._slots:
            return None
        blocks = list(state.blocks)
        for _ in range(wanted):
            blocks.append(self._allocate(blocks[-1].index if blocks else None))
        slot = self._slots.pop()
        return KvState(end, tuple(blocks), _Index(slot, self._slots))

    def zero_before_reuse(self, state: KvState) -> None:
        """Mark the blocks of `state`, which may hold NaN or infinity, to be zeroed when they are allocated again.

        No mask hides such values. Zeroing is deferred because other streams of the voice may read some of the blocks.
        """
        self._to_zero.update(block.index for block in state.blocks)

    def _allocate(self, after: int | None) -> _Index:
        """Allocate the block next to `after` if it is free: adjacent blocks of a stream are read without a copy."""
        index = after + 1 if after is not None and after + 1 in self._free else self._middle_of_free_run()
        self._free.remove(index)
        if index in self._to_zero:
            self._to_zero.remove(index)
            for cache in self.caches.values():
                cache.zero_block(index)
        return _Index(index, self._free)

    def _middle_of_free_run(self) -> int:
        """Index of the block in the middle of the longest run of free blocks, or 0 if that run starts at block 0."""
        free = sorted(self._free)
        breaks = [0, *(i for i, (a, b) in enumerate(pairwise(free), start=1) if b != a + 1), len(free)]
        start, end = max(pairwise(breaks), key=lambda run: run[1] - run[0])
        return free[start] if free[start] == 0 else free[(start + end) // 2]


def block_bytes(layouts: Mapping[str, KvLayout], dtype: torch.dtype) -> int:
    """Bytes of one block, including scales."""
    values = sum(layout.block_values for layout in layouts.values())
    if dtype != torch.float8_e4m3fn:
        return values * dtype.itemsize
    return values + SCALE_TYPE.itemsize * sum(one.block_values // one.head_dim for one in layouts.values())


def slot_bytes(layouts: Mapping[str, KvLayout], dtypes: Mapping[str, torch.dtype]) -> int:
    """Bytes of one slot: the convolutions' tails, in the type in which each network computes (default: float32)."""
    return sum(one.slot_values * dtypes.get(name, torch.float32).itemsize for name, one in layouts.items())


def pool_bytes(blocks: int, block: int, slot: int) -> int:
    """Bytes of a pool of that many blocks, with the spare block and slots, by the bytes of a block and of a slot."""
    return _stored_blocks(blocks) * block + _stored_slots(blocks) * slot


def _stored_blocks(blocks: int) -> int:
    return blocks + (blocks > 0)


def _stored_slots(blocks: int) -> int:
    return blocks + 3


class KvCache:
    """Keys, values and convolution tails of one network, for every block and slot of the pool.

    `write`, `read` and `tails` take the Euler step as a number. Programs keep the step on the device, so they address
    the whole cache with `write_flat`, `read_flat` and `all_tails`, whose indices include the step.
    """

    def __init__(self, layout: KvLayout, blocks: int, dtype: torch.dtype, device: torch.device | None) -> None:
        self.layout, self._device = layout, device
        self.blocks, self.slots = _stored_blocks(blocks), _stored_slots(blocks)
        """The last of each is the spare one, which no stream reads."""
        self._scaled = dtype == torch.float8_e4m3fn
        self._dtype = dtype
        shape = (layout.steps * layout.layers, 2, layout.rows, self.blocks, layout.positions)
        stored = torch.uint8 if self._scaled else dtype  # index operations do not support float8
        self._values = _zeros((*shape, layout.heads * layout.head_dim), stored, device)
        self._scales = _zeros((*shape, layout.heads), SCALE_TYPE, device) if self._scaled else None
        self._tails: dict[int, Tensor] = {}

    @property
    def stored(self) -> tuple[Tensor, Tensor | None]:
        """All values [steps * layers, 2, rows, blocks, positions, heads * head_dim] and scales [..., heads].

        They are for kernels. float8_e4m3fn is stored as the uint8 of its bits, and is the only type with scales. Each
        head has its own scale, so that a kernel that handles one head needs no values of another.
        """
        return self._values, self._scales

    @property
    def nbytes(self) -> int:
        """Bytes of the values, the scales and the tails."""
        scales = 0 if self._scales is None else self._scales.nbytes
        return self._values.nbytes + scales + sum(tails.nbytes for tails in self._tails.values())

    def write(self, step: int, layer: int, at: Tensor | slice, keys_values: Tensor) -> None:
        """Write [2, rows, n, heads * head_dim] to n positions, counted over the blocks."""
        where = step * self.layout.layers + layer
        values, scales = self._packed(keys_values)
        self._values[where].flatten(2, 3)[:, :, at] = values
        if self._scales is not None and scales is not None:
            self._scales[where].flatten(2, 3)[:, :, at] = scales

    def read(self, step: int, layer: int, blocks: Tensor | slice, dtype: torch.dtype) -> Tensor:
        """The positions of `blocks` in order, [2, rows, blocks * positions, heads * head_dim]; a view if possible."""
        where = step * self.layout.layers + layer
        values = _pick(self._values[where], blocks).flatten(2, 3)
        scales = None if self._scales is None else _pick(self._scales[where], blocks).flatten(2, 3)
        return _unpacked(values, scales, dtype)

    def write_flat(self, at: Tensor, keys_values: Tensor) -> None:
        """Write [n, heads * head_dim] to n positions, counted over steps, layers, keys/values, rows and blocks."""
        values, scales = self._packed(keys_values)
        self._values.flatten(0, 4).index_copy_(0, at, values)
        if self._scales is not None and scales is not None:
            self._scales.flatten(0, 4).index_copy_(0, at, scales)

    def read_flat(self, at: Tensor, dtype: torch.dtype) -> Tensor:
        """Return n blocks, counted over steps, layers, keys/values and rows: [n, positions, heads * head_dim]."""
        values = self._values.flatten(0, 3).index_select(0, at)
        scales = None if self._scales is None else self._scales.flatten(0, 3).index_select(0, at)
        return _unpacked(values, scales, dtype)

    def tails(self, step: int, layer: int, width: int, channels: int, dtype: torch.dtype) -> Tensor:
        """The tails of one convolution in one step: [rows, slots, width, channels]."""
        return self.all_tails(layer, width, channels, dtype)[step]

    def all_tails(self, layer: int, width: int, channels: int, dtype: torch.dtype) -> Tensor:
        """The tails of one convolution in every step: [steps, rows, slots, width, channels]."""
        if layer not in self._tails:
            shape = (self.layout.steps, self.layout.rows, self.slots, width, channels)
            self._tails[layer] = _zeros(shape, dtype, self._device)
        return self._tails[layer]

    def _packed(self, keys_values: Tensor) -> tuple[Tensor, Tensor | None]:
        """Convert to the stored type; float8 values come with scales [..., heads]."""
        if not self._scaled:
            return keys_values.to(self._dtype), None
        by_head = keys_values.float().reshape(*keys_values.shape[:-1], self.layout.heads, self.layout.head_dim)
        # A product, because PyTorch divides by a constant on a CPU and multiplies by its reciprocal on a GPU.
        scales = (by_head.abs().amax(dim=-1).clamp_min(1e-12) * (1 / FP8_MAX)).to(SCALE_TYPE)
        values = (by_head / scales.float()[..., None]).to(torch.float8_e4m3fn).view(torch.uint8)
        return values.flatten(-2), scales

    def zero_block(self, block: int) -> None:
        self._values[:, :, :, block].zero_()
        if self._scales is not None:
            self._scales[:, :, :, block].zero_()


def _unpacked(values: Tensor, scales: Tensor | None, dtype: torch.dtype) -> Tensor:
    if scales is None:
        return values.to(dtype)
    by_head = values.view(torch.float8_e4m3fn).float().reshape(*scales.shape, -1)
    return (by_head * scales.float()[..., None]).to(dtype).flatten(-2)


def _pick(values: Tensor, blocks: Tensor | slice) -> Tensor:
    return values[:, :, blocks] if isinstance(blocks, slice) else values.index_select(2, blocks)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | None) -> Tensor:
    """Return zeros; on a CPU in pages that are allocated when first written (`torch.zeros` would write them all).

    The pages are small ones: a block is spread over one piece per step and layer, and a huge page for each would take
    a gigabyte for a stream's first second. NumPy requests huge pages.
    """
    if (device is not None and device.type != "cpu") or 0 in shape:
        return torch.zeros(shape, dtype=dtype, device=device)
    pages = mmap.mmap(-1, prod(shape) * dtype.itemsize)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages refuses this advice
            pages.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype).view(shape)
