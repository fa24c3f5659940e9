"""A forward pass of a network over the new positions of several streams.

A network is written once, against a `Pass`: without a cache it computes streams from their start (recompute), with one
it appends to cached streams (spec section 6.3). Streams of different lengths share a pass as rows padded on the right;
padding never changes a valid row, since convolutions are causal and attention is masked by absolute position.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from services.decode.flow.kv_cache import KvCache, KvState


class ForwardContext(Protocol):
    """Gives a network access to the positions before its new ones: a `Pass`, or the context of a program.

    R rows are guidance rows * streams S, the streams innermost; N is the padded number of new positions. This is all
    that a network sees of the cache, so a kernel over the cache's blocks replaces `attend` and nothing else.
    """

    def positions(self, x: Tensor) -> Tensor:
        """Absolute positions of the new ones, int64 [R, N] for x [R, N, …]; those of padding have no meaning."""

    def left(self, layer: int, x: Tensor, width: int) -> Tensor:
        """Return `x` [R, N, C] with the `width` positions before it prepended (zeros at the start of a stream).

        `layer` numbers the convolutions of a network. The last `width` valid positions become the stream's new tail.
        """

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of new positions over cached and new ones: q, k, v [R, N, heads, d] -> [R, N, heads * d].

        `layer` numbers the attention layers of a network. k and v are stored as they are, so a rotation by position is
        applied before, once. Row r of the result is softmax(q_r · K / sqrt(d)) · V over the absolute positions that
        the chunk mask lets r see, all of them of r's own stream and guidance row. Rows of padding are finite and
        otherwise undefined. `block_attention` has the interface of a kernel over the cache's blocks.
        """


def uploaded(numbers: Tensor, device: torch.device) -> Tensor:
    """Copy numbers of the host to the device; to a GPU from pinned memory, so that the host need not wait for it."""
    return numbers.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else numbers.to(device)


class CacheIndices:
    """Cache read and write indices of a batch (`ratio` positions per token), shared by all layers."""

    def __init__(
        self, before: Sequence[KvState], after: Sequence[KvState], block_tokens: int, ratio: int, device: torch.device
    ) -> None:
        self.keys = ratio * max(state.tokens for state in after)
        """Positions of the longest stream, including its new ones."""
        self.starts = [ratio * state.tokens for state in before]
        self.lengths = [ratio * state.tokens - start for state, start in zip(after, self.starts, strict=True)]
        self.first = uploaded(torch.tensor(self.starts), device)
        slots = [state.slot.index if state.slot else 0 for state in before]
        self.slots_before = uploaded(torch.tensor(slots), device)
        self.slots_after = [state.slot.index if state.slot else 0 for state in after]
        size = block_tokens * ratio
        numbers = [[block.index for block in state.blocks] for state in after]
        self.blocks = _blocks(numbers, device)
        places = [
            [row[position // size] * size + position % size for position in range(start, start + length)]
            for row, start, length in zip(numbers, self.starts, self.lengths, strict=True)
        ]
        flat = [place for row in places for place in row]
        run = flat == list(range(flat[0], flat[0] + len(flat)))
        self.places = slice(flat[0], flat[0] + len(flat)) if run else uploaded(torch.tensor(flat), device)


def _blocks(numbers: Sequence[Sequence[int]], device: torch.device) -> Tensor | slice:
    """The blocks of all streams in one row, equally many of each; a slice for the adjacent blocks of one stream.

    A slice is read without a copy.
    """
    first = numbers[0][0]
    if len(numbers) == 1 and list(numbers[0]) == list(range(first, first + len(numbers[0]))):
        return slice(first, first + len(numbers[0]))
    longest = max(len(row) for row in numbers)
    padded = [number for row in numbers for number in [*row, *[row[0]] * (longest - len(row))]]
    return uploaded(torch.tensor(padded), device)


@dataclass(frozen=True)
class PassTails:
    """The positions before one convolution's input in a `Pass`."""

    frames: Pass
    layer: int
    width: int

    def extend(self, x: Tensor) -> Tensor:
        """Return `x` [R, N, C] after its rows' tails, [R, width + N, C]; store the new tails."""
        return self.frames.left(self.layer, x, self.width)


class Pass:
    """New positions of S streams: tensors are `[rows * S, padded length, channels]`, the streams innermost.

    Without a cache the streams are computed from their start and nothing is stored. With one, `indices` locate their
    states in it; no position of an existing state is overwritten, so a pass that fails changes no stream.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        mask: Tensor | None,
        *,
        rows: int = 1,
        cache: KvCache | None = None,
        indices: CacheIndices | None = None,
        step: int = 0,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        """`lengths` are the valid positions per stream; `mask` is a result of `chunk_mask`.

        `beat` is called at each attention layer: an Euler step over a long prompt may take a CPU half a minute.
        """
        self.lengths, self.mask, self.rows = lengths, mask, rows
        self.starts = indices.starts if indices else [0] * len(lengths)
        self.keys = indices.keys if indices else max(lengths)
        self._cache, self._indices, self._step, self._beat = cache, indices, step, beat

    @property
    def has_cache(self) -> bool:
        """Whether the pass reads and writes cached states."""
        return self._cache is not None

    def positions(self, x: Tensor) -> Tensor:
        """Absolute positions of the new ones, int64 [R, N]."""
        new = torch.arange(x.shape[1], device=x.device)
        if self._indices is None:
            return new.expand(x.shape[0], -1)
        return (self._indices.first[:, None] + new).repeat(self.rows, 1)

    def left(self, layer: int, x: Tensor, width: int) -> Tensor:
        """Return `x` [R, N, C] with the `width` positions before it prepended (zeros at the start of a stream)."""
        if self._cache is None or self._indices is None:
            return F.pad(x, (0, 0, width, 0))
        tails = self._cache.tails(self._step, layer, width, x.shape[-1], x.dtype)
        extended = torch.cat((tails.index_select(1, self._indices.slots_before).flatten(0, 1), x), dim=1)
        rows = extended.view(self.rows, -1, *extended.shape[1:])
        for index, length in enumerate(self.lengths):
            tails[:, self._indices.slots_after[index]] = rows[:, index, length : length + width]
        return extended

    def tails(self, layer: int, width: int, x: Tensor) -> PassTails:
        """What `left` prepends, for a network that extends its inputs later, as `program.FixedContext.tails`."""
        return PassTails(self, layer, width)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, biases: Sequence[Tensor] | None = None) -> Tensor:
        """Attention of new positions over cached and new ones: q, k, v [R, N, heads, d] -> [R, N, heads * d].

        `biases[s]` is an additive term [heads, length, cached + length], already scaled.
        """
        self._beat()
        if self._cache is not None and self._indices is not None:
            k, v = self._store(self._cache, self._indices, layer, k, v)
        mask = self._masked(biases, q)
        out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask)
        return out.transpose(1, 2).flatten(2)

    def _store(self, cache: KvCache, indices: CacheIndices, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new keys and values; return those of all positions, including cached ones."""
        heads, width = k.shape[2:]
        new = torch.stack((k, v)).view(2, self.rows, -1, k.shape[1], heads * width)
        if min(self.lengths) < new.shape[3] or len(self.lengths) > 1:
            valid = [new[:, :, index, :length] for index, length in enumerate(self.lengths)]
            cache.write(self._step, layer, indices.places, torch.cat(valid, dim=2))
        else:
            cache.write(self._step, layer, indices.places, new[:, :, 0])
        kept = cache.read(self._step, layer, indices.blocks, k.dtype)
        kept = kept.view(2, self.rows, len(self.lengths), -1, heads, width)[:, :, :, : indices.keys].flatten(1, 2)
        return kept[0], kept[1]

    def _masked(self, biases: Sequence[Tensor] | None, q: Tensor) -> Tensor | None:
        if biases is None:
            return None if self.mask is None else self.mask.to(q.dtype)
        bias = q.new_zeros(len(biases), q.shape[2], q.shape[1], self.keys)
        for index, one in enumerate(biases):
            bias[index, :, : one.shape[1], : one.shape[2]] = one
        return bias if self.mask is None else bias + self.mask.to(q.dtype)


def chunk_mask(
    ends: Sequence[Tensor | None], starts: Sequence[int], lengths: Sequence[int], rows: int
) -> Tensor | None:
    """Return the additive mask [rows * S, 1, N, keys]: minus infinity where a position may not attend.

    Each new position attends to the absolute positions before `ends[s]` [length]; None means the whole stream.
    Returns None if a single stream needs no mask.
    """
    if len(lengths) == 1 and ends[0] is None:
        return None
    longest = max(lengths)
    keys = max(start + length for start, length in zip(starts, lengths, strict=True))
    before = torch.ones(len(lengths), longest, 1)  # padding attends to position 0, so that no row is empty
    for row, end, start, length in zip(before, ends, starts, lengths, strict=True):
        row[:length, 0] = start + length if end is None else end
    mask = torch.where(torch.arange(keys) < before, 0.0, float("-inf"))
    return mask.repeat(rows, 1, 1)[:, None]
