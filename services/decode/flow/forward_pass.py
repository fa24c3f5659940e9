"""A forward pass of a network over the new positions of several streams.

A network is written once, against a `Pass`: without a cache it computes streams from their start (recompute), with one
it appends to cached streams (spec section 6.3). Streams of different lengths share a pass as rows padded on the right;
padding never changes a valid row, since convolutions are causal and attention is masked by absolute position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from services.decode.flow.kv_cache import KvCache, KvState
from services.decode.flow.upload import Sent, Upload


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


class FrontContext(ForwardContext, Protocol):
    """What a front sees: its attention may have a term that depends on the distance of query and key."""

    keys: int
    """Absolute positions that attention reads of every stream, from position 0 on."""

    def relative(self, scores: Tensor) -> Tensor:
        """Scores by distance, [S, heads, N, keys + N - 1], as scores by key position, [S, heads, N, keys].

        Column c has the score for a key that lies keys - 1 - c positions before the query. Keys that the chunk mask
        hides get any finite score.
        """

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """`ForwardContext.attend`; `bias` [S, heads, N, keys] is added to the scores, which are already scaled."""


def columns(first: Tensor, new: int, keys: int) -> Tensor:
    """Where `FrontContext.relative` finds its scores: [S, 1, new, keys], for streams that begin at `first` [S, 1]."""
    position = torch.arange(max(new, keys), device=first.device)
    query = first[..., None] + position[:new, None]
    return (keys - 1 - query + position[:keys]).clamp_(0, keys + new - 2)[:, None]


class CacheIndices:
    """Cache read and write indices of a batch (`ratio` positions per token), shared by all layers.

    They are on the device once `upload` has been sent.
    """

    def __init__(
        self, before: Sequence[KvState], after: Sequence[KvState], block_tokens: int, ratio: int, upload: Upload
    ) -> None:
        self.keys = ratio * max(state.tokens for state in after)
        """Positions of the longest stream, including its new ones."""
        self.starts = [ratio * state.tokens for state in before]
        self.lengths = [ratio * state.tokens - start for state, start in zip(after, self.starts, strict=True)]
        slots = [[state.slot.index if state.slot else 0 for state in states] for states in (before, after)]
        self.slots_after = slots[1]
        self._numbers = upload.add(torch.tensor([self.starts, self.lengths, *slots]))
        size = block_tokens * ratio
        numbers = [[block.index for block in state.blocks] for state in after]
        self._blocks = _blocks(numbers, upload)
        places = [
            [row[position // size] * size + position % size for position in range(start, start + length)]
            for row, start, length in zip(numbers, self.starts, self.lengths, strict=True)
        ]
        flat = [place for row in places for place in row]
        run = flat == list(range(flat[0], flat[0] + len(flat)))
        self._places = slice(flat[0], flat[0] + len(flat)) if run else upload.add(torch.tensor(flat))

    @property
    def first(self) -> Tensor:
        """Absolute position of each stream's first new one, int64 [S]."""
        return self._numbers()[0]

    @property
    def counts(self) -> Tensor:
        """New positions of each stream, int64 [S]."""
        return self._numbers()[1]

    @property
    def slots_before(self) -> Tensor:
        """Where each stream's tails are, int64 [S]."""
        return self._numbers()[2]

    @property
    def all_slots_after(self) -> Tensor:
        """Where each stream's new tails belong, int64 [S]."""
        return self._numbers()[3]

    @property
    def blocks(self) -> Tensor | slice:
        """The blocks of all streams in one row."""
        return self._blocks if isinstance(self._blocks, slice) else self._blocks()

    @property
    def places(self) -> Tensor | slice:
        """The places of all new positions, counted over the blocks."""
        return self._places if isinstance(self._places, slice) else self._places()


def _blocks(numbers: Sequence[Sequence[int]], upload: Upload) -> Sent | slice:
    """The blocks of all streams in one row, equally many of each; a slice for the adjacent blocks of one stream.

    A slice is read without a copy.
    """
    first = numbers[0][0]
    if len(numbers) == 1 and list(numbers[0]) == list(range(first, first + len(numbers[0]))):
        return slice(first, first + len(numbers[0]))
    longest = max(len(row) for row in numbers)
    padded = [number for row in numbers for number in [*row, *[row[0]] * (longest - len(row))]]
    return upload.add(torch.tensor(padded))


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
        if len(self.lengths) == 1:
            [length], [slot] = self.lengths, self._indices.slots_after
            tails[:, slot] = rows[:, 0, length : length + width]
            return extended
        last = self._indices.counts[:, None] + torch.arange(width, device=x.device)
        stream = torch.arange(len(self.lengths), device=x.device)[:, None]
        tails.index_copy_(1, self._indices.all_slots_after, rows[:, stream, last])
        return extended

    def tails(self, layer: int, width: int, x: Tensor) -> PassTails:
        """What `left` prepends, for a network that extends its inputs later, as `program.FixedContext.tails`."""
        return PassTails(self, layer, width)

    def relative(self, scores: Tensor) -> Tensor:
        """See `FrontContext.relative`; a view if all streams begin at the same position."""
        streams, heads, new, _ = scores.shape
        if self._indices is None or len(set(self.starts)) == 1:
            by_stream, by_head, by_query, by_column = scores.stride()
            shape, ahead = (streams, heads, new, self.keys), self.keys - 1 - self.starts[0]
            shifted = (by_stream, by_head, by_query - by_column, by_column)
            return scores.as_strided(shape, shifted, scores.storage_offset() + ahead * by_column)
        at = columns(self._indices.first[:, None], new, self.keys)
        return scores.gather(3, at.expand(-1, heads, -1, -1))

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """See `FrontContext.attend`."""
        self._beat()
        if self._cache is not None and self._indices is not None:
            k, v = self._store(self._cache, self._indices, layer, k, v)
        mask = None if self.mask is None else self.mask.to(q.dtype)
        if bias is not None:
            mask = bias if mask is None else bias + mask
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


def chunk_mask(
    ends: Sequence[Tensor | None], starts: Sequence[int], lengths: Sequence[int], rows: int
) -> Tensor | None:
    """Return the additive mask [rows * S, 1, N, keys]: minus infinity where a position may not attend.

    Each new position attends to the absolute positions before `ends[s]` [length]; None means the whole stream.
    Returns None if a single stream needs no mask.
    """
    if len(lengths) == 1 and ends[0] is None:
        return None
    keys = max(start + length for start, length in zip(starts, lengths, strict=True))
    return additive_mask(all_ends(ends, starts, lengths), keys).repeat(rows, 1, 1, 1)


def all_ends(ends: Sequence[Tensor | None], starts: Sequence[int], lengths: Sequence[int]) -> Tensor:
    """`ends` of all streams, int64 [S, N]; padding attends to position 0, so that no row is empty."""
    before = torch.ones(len(lengths), max(lengths), dtype=torch.int64)
    for row, end, start, length in zip(before, ends, starts, lengths, strict=True):
        row[:length] = start + length if end is None else end
    return before


def additive_mask(ends: Tensor, keys: int) -> Tensor:
    """Return [S, 1, N, keys]: minus infinity from `ends` [S, N] on."""
    seen = torch.arange(keys, device=ends.device) < ends[..., None]
    return torch.zeros(seen.shape, device=ends.device).masked_fill_(~seen, float("-inf"))[:, None]


class BatchPasses:
    """The passes of one batch at any number of positions per token. They can be used once `upload` has been sent."""

    def __init__(
        self,
        starts: Sequence[int],
        lengths: Sequence[int],
        ends: Sequence[Tensor | None],
        kept: tuple[Sequence[KvState], Sequence[KvState], int] | None,
        ratios: Iterable[int],
        upload: Upload,
        beat: Callable[[], None],
    ) -> None:
        """Streams have `lengths` new tokens from `starts` on, which attend as in `chunk_mask`.

        `kept` are the states before and after and the tokens of a block; None keeps nothing.
        """
        self._lengths, self._beat = lengths, beat
        self._longest = max(start + length for start, length in zip(starts, lengths, strict=True))
        masked = len(lengths) > 1 or ends[0] is not None
        self._ends = upload.add(all_ends(ends, starts, lengths)) if masked else None
        self._indices = {} if kept is None else {ratio: CacheIndices(*kept, ratio, upload) for ratio in ratios}

    def over(self, ratio: int, rows: int, cache: KvCache) -> Callable[[int], Pass]:
        """Return what makes the pass of a step, in `rows` guidance rows."""
        lengths, mask, indices = [ratio * length for length in self._lengths], None, self._indices.get(ratio)
        if self._ends is not None:
            ends = self._ends() if ratio == 1 else (ratio * self._ends()).repeat_interleave(ratio, dim=1)
            mask = additive_mask(ends, ratio * self._longest).repeat(rows, 1, 1, 1)
        if indices is None:
            return lambda step: Pass(lengths, mask, rows=rows, beat=self._beat)
        return lambda step: Pass(lengths, mask, rows=rows, cache=cache, indices=indices, step=step, beat=self._beat)
