"""New positions of several streams going through one network, over what the streams remember.

A network is written once, against a `Pass`: without a past it computes streams from their beginning (recompute), with
one it appends (spec section 6.3). Streams with pasts of different lengths share a pass as rows padded on the right;
padding never reaches a valid row, since convolutions look left only and attention is masked by absolute position.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from services.decode.flow.pool import Arena, Past


class Surroundings(Protocol):
    """What a network asks about the positions before and beside its new ones: a `Pass`, or a program's own."""

    def left(self, layer: int, x: Tensor, width: int) -> Tensor:
        """`x` [R, N, C] with the `width` positions before it in front (zeros at a stream's beginning)."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of new positions over past and new ones: q, k, v [R, N, heads, d] -> [R, N, heads * d]."""


class Window:
    """Where a batch's new positions go and its pasts are, at `ratio` positions per token; for every layer the same."""

    def __init__(
        self, before: Sequence[Past], after: Sequence[Past], block_tokens: int, ratio: int, device: torch.device
    ) -> None:
        self.keys = ratio * max(past.tokens for past in after)
        """Positions of the longest stream, its new ones included."""
        self.starts = [ratio * past.tokens for past in before]
        self.lengths = [ratio * past.tokens - start for past, start in zip(after, self.starts, strict=True)]
        self.slots_before = torch.tensor([past.slot.index if past.slot else 0 for past in before], device=device)
        self.slots_after = [past.slot.index if past.slot else 0 for past in after]
        size = block_tokens * ratio
        numbers = [[block.index for block in past.blocks] for past in after]
        self.blocks = _blocks(numbers, device)
        places = [
            [row[position // size] * size + position % size for position in range(start, start + length)]
            for row, start, length in zip(numbers, self.starts, self.lengths, strict=True)
        ]
        flat = [place for row in places for place in row]
        run = flat == list(range(flat[0], flat[0] + len(flat)))
        self.places = slice(flat[0], flat[0] + len(flat)) if run else torch.tensor(flat, device=device)


def _blocks(numbers: Sequence[Sequence[int]], device: torch.device) -> Tensor | slice:
    """Every stream's blocks in one row, as many for each; one stream's neighbouring blocks are read where they lie."""
    first = numbers[0][0]
    if len(numbers) == 1 and list(numbers[0]) == list(range(first, first + len(numbers[0]))):
        return slice(first, first + len(numbers[0]))
    longest = max(len(row) for row in numbers)
    return torch.tensor(
        [number for row in numbers for number in [*row, *[row[0]] * (longest - len(row))]], device=device
    )


class Pass:
    """New positions of S streams: tensors are `[rows * S, padded length, channels]`, the streams innermost.

    Without an arena the streams are computed from their beginning and leave nothing behind. With one, `window` says
    where their pasts are; nothing that a past holds is overwritten, so a pass that fails leaves every stream as it
    was.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        mask: Tensor | None,
        *,
        rows: int = 1,
        arena: Arena | None = None,
        window: Window | None = None,
        step: int = 0,
    ) -> None:
        """`lengths` are the valid positions per stream; `mask` comes from `chunk_mask`."""
        self.lengths, self.mask, self.rows = lengths, mask, rows
        self.starts = window.starts if window else [0] * len(lengths)
        self.keys = window.keys if window else max(lengths)
        self._arena, self._window, self._step = arena, window, step

    @property
    def keeps(self) -> bool:
        """Whether streams have a past, or leave one."""
        return self._arena is not None

    def left(self, layer: int, x: Tensor, width: int) -> Tensor:
        """`x` [R, N, C] with the `width` positions before it in front (zeros at a stream's beginning)."""
        if self._arena is None or self._window is None:
            return F.pad(x, (0, 0, width, 0))
        tails = self._arena.tails(self._step, layer, width, x.shape[-1], x.dtype)
        extended = torch.cat((tails.index_select(1, self._window.slots_before).flatten(0, 1), x), dim=1)
        rows = extended.view(self.rows, -1, *extended.shape[1:])
        for index, length in enumerate(self.lengths):
            tails[:, self._window.slots_after[index]] = rows[:, index, length : length + width]
        return extended

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, biases: Sequence[Tensor] | None = None) -> Tensor:
        """Attention of new positions over past and new ones: q, k, v [R, N, heads, d] -> [R, N, heads * d].

        `biases[s]` is an additive term [heads, length, past + length], already scaled.
        """
        if self._arena is not None and self._window is not None:
            k, v = self._remember(self._arena, self._window, layer, k, v)
        mask = self._masked(biases, q)
        heard = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask)
        return heard.transpose(1, 2).flatten(2)

    def _remember(self, arena: Arena, window: Window, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stores the new keys and values; returns those of all positions, past ones included."""
        heads, width = k.shape[2:]
        new = torch.stack((k, v)).view(2, self.rows, -1, k.shape[1], heads * width)
        if min(self.lengths) < new.shape[3] or len(self.lengths) > 1:
            valid = [new[:, :, index, :length] for index, length in enumerate(self.lengths)]
            arena.write(self._step, layer, window.places, torch.cat(valid, dim=2))
        else:
            arena.write(self._step, layer, window.places, new[:, :, 0])
        kept = arena.read(self._step, layer, window.blocks, k.dtype)
        kept = kept.view(2, self.rows, len(self.lengths), -1, heads, width)[:, :, :, : window.keys].flatten(1, 2)
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
    """The additive mask [rows * S, 1, N, keys]: minus infinity where a position may not look.

    `ends[s]` [length] says before which absolute position each new one may look; None lets all see everything of
    their stream. None when a single stream needs no mask.
    """
    if len(lengths) == 1 and ends[0] is None:
        return None
    longest = max(lengths)
    keys = max(start + length for start, length in zip(starts, lengths, strict=True))
    before = torch.ones(len(lengths), longest, 1)  # padding sees position 0, so that no row is empty
    for row, end, start, length in zip(before, ends, starts, lengths, strict=True):
        row[:length, 0] = start + length if end is None else end
    mask = torch.where(torch.arange(keys) < before, 0.0, float("-inf"))
    return mask.repeat(rows, 1, 1)[:, None]
