"""The backend that computes: the speech language model over a paged K/V cache, and RAS sampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from services.llm.kv_cache import KVCache, Rows, StepBatch, lay_out
from services.llm.model import SpeechLM
from services.llm.sampling import CounterDraw, Draw, SamplingRow, ras_sample
from services.llm.scheduler import Work


class NonFiniteLogits(ArithmeticError):
    """The model produced NaN or infinity; the input or the precision does not suit it."""


class TorchBackend:
    """Runs a `SpeechLM` on its device. Used by one thread at a time."""

    def __init__(
        self, model: SpeechLM, draw: Callable[[Sequence[SamplingRow], torch.device], Draw] = CounterDraw
    ) -> None:
        """`draw` makes each step's random choices; anything but the default is for parity checks."""
        self._model = model
        self._draw = draw
        weight = model.speech_embedding.weight
        self._device, self._dtype = weight.device, weight.dtype
        self._cache: KVCache | None = None
        self._bans: dict[frozenset[int], Tensor] = {}

    def reserve(self, num_blocks: int, block_size: int) -> None:
        self._cache = KVCache(self._model.config, num_blocks, block_size, self._device, self._dtype)

    @torch.inference_mode()
    def step(self, batch: Sequence[Work]) -> list[int | None]:
        """One forward pass over the batch's rows. Raises NonFiniteLogits if any sequence's logits are not finite."""
        if self._cache is None:
            raise RuntimeError("reserve() the K/V cache before the first step")
        rows = [_rows(work) for work in batch]
        laid_out = lay_out(rows, self._cache.block_size, self._device)
        hidden = self._model(laid_out, self._cache)
        return self._tokens(batch, laid_out, hidden)

    def _tokens(self, batch: Sequence[Work], laid_out: StepBatch, hidden: Tensor) -> list[int | None]:
        tokens: list[int | None] = [None] * len(batch)
        sampled = [i for i, work in enumerate(batch) if work.samples]
        if not sampled:
            return tokens
        logits = self._model.logits(hidden[laid_out.last[sampled]])
        if not bool(logits.isfinite().all()):
            raise NonFiniteLogits("the model produced logits that are not finite")
        constraints = [batch[i].sequence.layout.constraint() for i in sampled]
        rows = [_sampling_row(batch[i]) for i in sampled]
        banned = torch.stack([self._banned(constraint.allowed) for constraint in constraints])
        ids = ras_sample(logits, rows, banned, self._draw(rows, self._device)).tolist()
        for i, constraint, token in zip(sampled, constraints, ids, strict=True):
            tokens[i] = token if constraint.forced is None else constraint.forced
        return tokens

    def _banned(self, allowed: frozenset[int]) -> Tensor:
        """[S]: true for every special id that is not allowed."""
        if allowed not in self._bans:
            mask = torch.arange(self._model.speech_embedding.num_embeddings) >= self._model.config.speech_tokens
            mask[sorted(allowed)] = False
            self._bans[allowed] = mask.to(self._device)
        return self._bans[allowed]


def _rows(work: Work) -> Rows:
    sequence = work.sequence
    return Rows(sequence.layout.rows[work.start : work.start + work.count], work.start, sequence.blocks)


def _sampling_row(work: Work) -> SamplingRow:
    sequence, sampling, options = work.sequence, work.sequence.sampling, work.sequence.request.sampling
    return SamplingRow(
        seed=options.seed,
        position=len(sequence.decoded),
        temperature=options.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        repeats=sampling.win_size * sampling.tau_r if options.ras else math.inf,
        window=sequence.decoded[-sampling.win_size :],
    )
