"""Repetition-aware sampling (RAS, spec section 4.5), vectorised over a batch on its device.

A draw takes the largest of log p + Gumbel noise. The noise is a hash of (seed, position, token id, draw): it is the
same on all devices and in all batches, so that a moved, preempted or resumed sequence draws the same tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from services.llm.engine.sequence import Sequence as EngineSequence

_MASK32 = 0xFFFFFFFF
ID_BITS = 20
"""Speech vocabularies have far fewer ids than 2^20."""
LARGEST_UNIFORM = 1 - 2**-24
LEAST_TEMPERATURE = 1e-6
"""Lower temperatures count as this one, which draws the most probable id: logits divided by them would overflow."""
NOT_FINITE = -1
"""Returned instead of an id if the logits contain NaN or infinity."""


@dataclass(frozen=True)
class SamplingRow:
    """Sampling of one sequence in one step: one row of the batch's tensors."""

    seed: int
    position: int
    """Index of the token to draw among the sequence's decoded ids."""
    temperature: float
    top_p: float
    top_k: int
    repeats: float
    """The drawn id is replaced when it occurs at least this often in `window`; infinity turns the rule off."""
    window: Sequence[int]
    """The last decoded ids."""

    @classmethod
    def of(cls, sequence: EngineSequence) -> SamplingRow:
        """Return how `sequence` samples its next token."""
        sampling, options = sequence.sampling, sequence.request.sampling
        return cls(
            seed=options.seed,
            position=len(sequence.decoded),
            temperature=max(options.temperature, LEAST_TEMPERATURE),
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            repeats=sampling.win_size * sampling.tau_r if options.ras else math.inf,
            window=sequence.decoded[-sampling.win_size :],
        )


@dataclass(frozen=True)
class SamplingBatch:
    """`SamplingRow`s as tensors on one device, B of them."""

    seed: Tensor
    """[B, 2] int64: low and high 32 bits."""
    position: Tensor
    """[B] int64"""
    temperature: Tensor
    """[B] float32"""
    top_p: Tensor
    """[B] float32"""
    top_k: Tensor
    """[B] int64"""
    repeats: Tensor
    """[B] float32"""
    window: Tensor
    """[B, w] int64, -1 for missing ids."""
    max_top_k: int
    """Largest top_k of all rows."""

    @classmethod
    def of(cls, rows: Sequence[SamplingRow], device: torch.device) -> SamplingBatch:
        width = max(len(row.window) for row in rows)
        return cls(
            seed=torch.tensor([[row.seed & _MASK32, row.seed >> 32] for row in rows], device=device),
            position=torch.tensor([row.position for row in rows], device=device),
            temperature=torch.tensor([row.temperature for row in rows], device=device),
            top_p=torch.tensor([row.top_p for row in rows], device=device),
            top_k=torch.tensor([row.top_k for row in rows], device=device),
            repeats=torch.tensor([row.repeats for row in rows], device=device),
            window=torch.tensor(
                [[*row.window, *[-1] * (width - len(row.window))] for row in rows], device=device, dtype=torch.long
            ),
            max_top_k=max(row.top_k for row in rows),
        )


class Draw(Protocol):
    """The two random choices of RAS."""

    def nucleus(self, probabilities: Tensor, ids: Tensor, kept: Tensor) -> Tensor:
        """Choose one of each row's kept entries. All [B, K], sorted, kept ones first. Return indices [B]."""

    def full(self, rows: Tensor, scores: Tensor) -> Tensor:
        """Choose from softmax(scores) [R, S] for the batch rows `rows` [R]. Return ids [R]."""


def ras_sample(logits: Tensor, rows: Sequence[SamplingRow], banned: Tensor, draw: Draw) -> Tensor:
    """Draw one id per row from the nucleus; if it was decoded recently, draw again from all other ids.

    logits [B, S] float32, banned [B, S] bool; returns ids [B], NOT_FINITE for rows whose logits are not finite.
    """
    return sample(logits, SamplingBatch.of(rows, logits.device), banned, draw)


def sample(logits: Tensor, batch: SamplingBatch, banned: Tensor, draw: Draw) -> Tensor:
    """`ras_sample` of rows that are on the device already. On a GPU it does not wait for the device."""
    finite = logits.isfinite().all(dim=-1)
    scores = torch.log_softmax(logits.nan_to_num() / batch.temperature[:, None], dim=-1).masked_fill(banned, -torch.inf)
    probabilities, ids, kept = _nucleus(scores, batch.top_p, batch.top_k, batch.max_top_k)
    chosen = ids.gather(1, draw.nucleus(probabilities, ids, kept)[:, None])
    repeated = (batch.window == chosen).sum(dim=1) >= batch.repeats
    # Without the repeated id, and without top-k and top-p.
    if logits.device.type == "cpu":
        rows = repeated.nonzero()[:, 0]  # counting is cheap on a CPU, a draw from all ids is not
        if rows.numel():
            again = scores[rows].scatter(1, chosen[rows], -torch.inf)
            chosen[rows] = draw.full(rows, again)[:, None]
    else:
        rows = torch.arange(len(logits), device=logits.device)
        again = scores.scatter(1, chosen, -torch.inf)
        chosen = torch.where(repeated[:, None], draw.full(rows, again)[:, None], chosen)
    return torch.where(finite, chosen[:, 0], NOT_FINITE)


def nucleus(scores: Tensor, top_p: Tensor, top_k: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the most probable ids of each row: probabilities, ids and which entries are kept, all [B, K], descending.

    An entry is kept if fewer than top_k entries precede it and their sum is below top_p [B]; equal probabilities are
    ordered by id, as in a stable sort.
    """
    return _nucleus(scores, top_p, torch.tensor(list(top_k), device=scores.device), max(top_k))


def _nucleus(scores: Tensor, top_p: Tensor, top_k: Tensor, max_top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    probabilities = torch.softmax(scores, dim=-1)
    size = probabilities.shape[-1]
    # The bits of non-negative floats have the order of the numbers; the id in the low bits makes every key unique, so
    # that top-k equals a stable sort on every device.
    descending_ids = size - 1 - torch.arange(size, device=scores.device)
    keys = (probabilities.view(torch.int32).long() << ID_BITS) | descending_ids
    ids = keys.topk(min(max_top_k, size), dim=-1).indices
    top = probabilities.gather(1, ids)
    before = torch.cat((torch.zeros_like(top[:, :1]), top.cumsum(dim=-1)[:, :-1]), dim=-1)
    rank = torch.arange(ids.shape[1], device=scores.device)
    return top, ids, (before < top_p[:, None]) & (rank < top_k[:, None])


class CounterDraw:
    """Gumbel-max draws with counter-based noise."""

    def __init__(self, batch: SamplingBatch) -> None:
        self._key = mix32(mix32(mix32(batch.seed[:, 0] + 1) ^ batch.seed[:, 1]) + batch.position)

    def nucleus(self, probabilities: Tensor, ids: Tensor, kept: Tensor) -> Tensor:
        scores = probabilities.log().masked_fill(~kept, -torch.inf)
        return (scores + gumbel(self._key, 0, ids)).argmax(dim=-1)

    def full(self, rows: Tensor, scores: Tensor) -> Tensor:
        ids = torch.arange(scores.shape[-1], device=scores.device).expand_as(scores)
        return (scores + gumbel(self._key[rows], 1, ids)).argmax(dim=-1)


class MultinomialDraw:
    """Upstream's draws: `torch.multinomial` on a CPU generator, row by row. For parity checks only."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def nucleus(self, probabilities: Tensor, ids: Tensor, kept: Tensor) -> Tensor:
        # How much the generator advances depends on the length of the list, so only the kept entries go in.
        chosen = [self._one(row[: int(count)]) for row, count in zip(probabilities, kept.sum(dim=1), strict=True)]
        return torch.stack(chosen).to(ids.device)

    def full(self, rows: Tensor, scores: Tensor) -> Tensor:
        return torch.stack([self._one(row) for row in scores.softmax(dim=-1)]).to(rows.device)

    def _one(self, probabilities: Tensor) -> Tensor:
        return torch.multinomial(probabilities.cpu(), 1, generator=self._generator)[0]


def gumbel(key: Tensor, draw: int, ids: Tensor) -> Tensor:
    """Return standard Gumbel noise [B, K] float32 for row keys [B] and token ids [B, K]."""
    bits = mix32(mix32(key + draw)[:, None] ^ mix32(ids + 1))
    # -log(-log(1 - v)) with v in (0, 1): large values, which decide, come from small v, where float32 is most precise.
    uniform = ((bits.double() + 0.5) / 2**32).float().clamp(max=LARGEST_UNIFORM)
    return -torch.log(-torch.log1p(-uniform))


def mix32(x: Tensor) -> Tensor:
    """Return a bijective hash of the low 32 bits of an int64 tensor (xor-shift and multiply).

    Both multipliers are below 2^31, so no product exceeds int64 and all devices compute the same.
    """
    x = x & _MASK32
    x = x ^ (x >> 16)
    x = (x * 0x21F0AAAD) & _MASK32
    x = x ^ (x >> 15)
    x = (x * 0x735A2D97) & _MASK32
    return x ^ (x >> 15)
