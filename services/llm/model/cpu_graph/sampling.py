"""`sampling.sample` with counter-based draws for a CPU: the same ids from a fifth of the calls.

A step of few sequences has some thousand numbers to sample from, so the calls cost more than their arithmetic. NumPy's
cost less than torch's, and hashes of ids are kept. Functions whose rounding differs between libraries (softmax,
logarithms) stay torch's: every value is the one of `sampling`, bit by bit.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.llm.model.sampling import ID_BITS, LARGEST_UNIFORM, NOT_FINITE, SamplingRow

_MASK32 = 0xFFFFFFFF
_Integers = NDArray[np.int64]
_Floats = NDArray[np.float32]


def sample_rows(logits: Tensor, rows: Sequence[SamplingRow], banned: Tensor) -> list[int]:
    """Draw one id per row as `sampling.ras_sample` with `CounterDraw` does; logits [B, S], banned [B, S] on a CPU."""
    size = logits.shape[1]
    finite = np.isfinite(logits.numpy()).all(axis=1)
    if not finite.all():
        logits = logits.nan_to_num()
    if any(row.temperature != 1.0 for row in rows):
        logits = logits / torch.tensor([row.temperature for row in rows])[:, None]
    scores = torch.log_softmax(logits, dim=-1).masked_fill_(banned, -torch.inf)
    probabilities, ids = _most_probable(torch.softmax(scores, dim=-1).numpy(), max(row.top_k for row in rows))
    keys = [_key(row) for row in rows]
    kept = _kept(probabilities, rows)
    noisy = torch.from_numpy(probabilities).log_().numpy() + _gumbel([mix(key) for key in keys], _id_hashes(size)[ids])
    noisy[~kept] = -np.inf
    chosen: list[int] = ids[np.arange(len(ids)), noisy.argmax(axis=1)].tolist()
    for index, row in enumerate(rows):
        # Without the repeated id, and without top-k and top-p.
        if row.repeats <= sum(one == chosen[index] for one in row.window):
            again: _Floats = scores[index].numpy()
            again[chosen[index]] = -np.inf
            chosen[index] = int((again + _gumbel([mix(keys[index] + 1)], _id_hashes(size)[None])[0]).argmax())
    return [one if good else NOT_FINITE for one, good in zip(chosen, finite.tolist(), strict=True)]


def _most_probable(probabilities: _Floats, most: int) -> tuple[_Floats, _Integers]:
    """Return the `most` largest of each row, descending, and their ids; equal ones in the order of their ids."""
    size = probabilities.shape[1]
    keys = probabilities.view(np.int32).astype(np.int64)
    keys <<= ID_BITS
    keys |= np.arange(size - 1, -1, -1)
    if most < size:
        keys = np.partition(keys, size - most, axis=1)[:, size - most :]
    keys.sort(axis=1)
    ids = size - 1 - (keys[:, ::-1] & ((1 << ID_BITS) - 1))
    return np.take_along_axis(probabilities, ids, axis=1), ids


def _kept(probabilities: _Floats, rows: Sequence[SamplingRow]) -> NDArray[np.bool_]:
    """Whether an entry is in its row's nucleus, [B, K]. torch adds float32 in float64, and rounds each sum."""
    before = np.zeros_like(probabilities)
    before[:, 1:] = probabilities.cumsum(axis=1, dtype=np.float64)[:, :-1]
    top_p = np.array([row.top_p for row in rows], dtype=np.float32)
    top_k = np.array([row.top_k for row in rows])
    kept: NDArray[np.bool_] = (before < top_p[:, None]) & (np.arange(before.shape[1]) < top_k[:, None])
    return kept


def _gumbel(keys: Sequence[int], hashes: _Integers) -> _Floats:
    """See `sampling.gumbel`: `keys` are the rows' after the draw's number was mixed in, `hashes` [B, K] the ids'."""
    bits = _mix32(np.array(keys)[:, None] ^ hashes)
    uniform = np.minimum(((bits + 0.5) / 2**32).astype(np.float32), np.float32(LARGEST_UNIFORM))
    noise = torch.from_numpy(np.negative(uniform, out=uniform)).log1p_().neg_().log_().neg_()
    result: _Floats = noise.numpy()
    return result


def _key(row: SamplingRow) -> int:
    return mix(_of_seed(row.seed) + row.position)


@functools.lru_cache(maxsize=4096)
def _of_seed(seed: int) -> int:
    return mix(mix((seed & _MASK32) + 1) ^ (seed >> 32))


@functools.lru_cache(maxsize=8)
def _id_hashes(size: int) -> _Integers:
    """Return the hashes of the ids below `size`."""
    return _mix32(np.arange(1, size + 1))


def mix(x: int) -> int:
    """`sampling.mix32` of one number."""
    x &= _MASK32
    x ^= x >> 16
    x = x * 0x21F0AAAD & _MASK32
    x ^= x >> 15
    x = x * 0x735A2D97 & _MASK32
    return x ^ (x >> 15)


def _mix32(x: _Integers) -> _Integers:
    """`sampling.mix32` of numbers of 32 bits."""
    x = x ^ (x >> 16)
    x *= 0x21F0AAAD
    x &= _MASK32
    x ^= x >> 15
    x *= 0x735A2D97
    x &= _MASK32
    x ^= x >> 15
    return x
