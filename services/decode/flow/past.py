"""What a causal network remembers of the frames it has already seen, and one pass of new frames over it.

A `Past` is plain data: the keys and values of every attention layer and the last input rows of every causal
convolution. A network is written once, against a `Pass`: with an empty past it computes a stream from its beginning
(recompute), with a filled one it appends (spec section 6.3). Several streams with pasts of different lengths go
through one pass as rows padded on the right; padding never reaches a valid row, since convolutions look left only and
attention runs per stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

GROWTH = 1.5


@dataclass
class Past:
    """One network's memory of `length` positions of one stream; `rows` batch rows belong to it (2 under CFG).

    keys_values  [layers, 2, rows, heads, capacity, head_dim]; None while empty. Grown geometrically, so an append
                 writes its own positions and copies nothing else.
    tails        per convolution [rows, width, channels]: the inputs it still needs to its left.
    """

    length: int = 0
    keys_values: Tensor | None = field(default=None, repr=False)
    tails: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def nbytes(self) -> int:
        tensors = [*self.tails.values(), *([] if self.keys_values is None else [self.keys_values])]
        return sum(tensor.nbytes for tensor in tensors)


class Pass:
    """New positions of several streams going through one network: `[streams * rows, padded length, channels]`.

    `lengths` says how many of each stream's positions are valid. A past of None is an empty one that is not kept:
    the stream is computed from position 0 and leaves nothing behind. Nothing in a past changes before `commit`, so a
    pass that fails half-way leaves every stream as it was.
    """

    def __init__(
        self,
        pasts: Sequence[Past | None],
        lengths: Sequence[int],
        masks: Sequence[Tensor | None],
        *,
        rows: int = 1,
        layers: int,
    ) -> None:
        """`masks[s]` is [length, past + length], true where a query may look, or None when it may look everywhere."""
        self._pasts, self.lengths, self.masks = pasts, lengths, masks
        self._rows, self._layers = rows, layers
        self._new_tails: list[dict[int, Tensor]] = [{} for _ in pasts]
        self.starts = [past.length if past else 0 for past in pasts]

    def left(self, layer: int, x: Tensor, width: int) -> Tensor:
        """`x` [R, N, C] with the `width` positions before it in front (zeros at a stream's beginning)."""
        tails = []
        for past in self._pasts:
            tail = past.tails.get(layer) if past else None
            tails.append(x.new_zeros(self._rows, width, x.shape[-1]) if tail is None else tail)
        extended = torch.cat((torch.cat(tails), x), dim=1)
        for index, (past, length) in enumerate(zip(self._pasts, self.lengths, strict=True)):
            if past is not None:
                rows = extended[index * self._rows : (index + 1) * self._rows]
                self._new_tails[index][layer] = rows[:, length : length + width].clone()
        return extended

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, biases: Sequence[Tensor] | None = None) -> Tensor:
        """Attention of new positions over past and new ones: q, k, v [R, N, heads, d] -> [R, N, heads * d].

        `biases[s]` is an additive term [heads, length, past + length], already scaled.
        """
        out = q.new_zeros(q.shape[0], q.shape[1], q.shape[2] * q.shape[3])
        for index, length in enumerate(self.lengths):
            rows = slice(index * self._rows, (index + 1) * self._rows)
            query, key, value = (t[rows, :length].transpose(1, 2) for t in (q, k, v))
            past = self._pasts[index]
            if past is not None:
                key, value = self._extend(past, layer, key, value)
            mask = self.masks[index]
            if biases is not None:
                bias = biases[index]
                mask = bias if mask is None else bias.masked_fill(~mask, float("-inf"))
            heard = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            out[rows, :length] = heard.transpose(1, 2).flatten(2)
        return out

    def commit(self) -> None:
        """Makes the new positions part of every kept past."""
        for past, length, tails in zip(self._pasts, self.lengths, self._new_tails, strict=True):
            if past is not None:
                past.length += length
                past.tails.update(tails)

    def _extend(self, past: Past, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        rows, heads, new, width = key.shape
        end = past.length + new
        store = past.keys_values
        if store is None or store.shape[4] < end:
            capacity = end if store is None else max(end, int(store.shape[4] * GROWTH))
            grown = key.new_empty(self._layers, 2, rows, heads, capacity, width)
            if store is not None:
                grown[..., : past.length, :] = store[..., : past.length, :]
            past.keys_values = store = grown
        store[layer, 0, :, :, past.length : end] = key
        store[layer, 1, :, :, past.length : end] = value
        return store[layer, 0, :, :, :end], store[layer, 1, :, :, :end]
