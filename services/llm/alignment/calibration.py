"""Finds the heads of a checkpoint whose attention follows the text, from utterances that it has generated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from services.common.checkpoint.model_dir import AlignmentHead
from services.llm.alignment.aligner import LEAST_SCORE
from services.llm.alignment.monotonic import follow
from services.llm.alignment.queries import QueryTap
from services.llm.model.kv_cache import KVCache, SequenceInput, build_batch
from services.llm.model.model import SpeechLM

NEAR_BEST = 0.95
"""Heads with at least this part of the best score are used together; their errors differ."""
MOST_HEADS = 4
BLOCK_SIZE = 16


@dataclass(frozen=True)
class Spoken:
    """One generated utterance."""

    inputs: Sequence[int]
    """All input codes, speech included."""
    text_slots: Sequence[int]
    """The places of the text to speak in `inputs`."""
    first: int
    """The place of the input from which the first speech token was sampled."""


class _AllQueries(QueryTap):
    """Keeps every query of every layer."""

    def __init__(self) -> None:
        super().__init__({})
        self.layers: list[Tensor] = []

    def take(self, layer: int, query: Tensor, last: Tensor) -> None:
        self.layers.append(query.flatten(1, 2).float())


@dataclass
class Scores:
    """The mean score of each head over utterances [layers, heads]."""

    total: Tensor = field(default_factory=lambda: torch.zeros(0))
    utterances: int = 0

    def add(self, scores: Tensor) -> None:
        self.total = scores if not self.utterances else self.total + scores
        self.utterances += 1

    def best(self) -> tuple[AlignmentHead, ...]:
        """Return the heads to declare, the best first; none if none is good enough."""
        mean = self.total / max(1, self.utterances)
        ranked = sorted(
            (AlignmentHead(layer, head, round(float(score), 3)) for (layer, head), score in _entries(mean)),
            key=lambda head: -head.score,
        )
        least = max(LEAST_SCORE, NEAR_BEST * ranked[0].score) if ranked else 1.0
        return tuple(head for head in ranked[:MOST_HEADS] if head.score >= least)

    def top(self) -> float:
        """Return the best head's score."""
        return float((self.total / max(1, self.utterances)).max()) if self.utterances else 0.0


def _entries(scores: Tensor) -> Iterable[tuple[tuple[int, int], float]]:
    for layer, row in enumerate(scores.tolist()):
        for head, score in enumerate(row):
            yield (layer, head), score


@torch.inference_mode()
def score_heads(model: SpeechLM, spoken: Spoken) -> Tensor:
    """Return the score [layers, heads] of an utterance, 0 to 1.

    A head's score is the part of its attention to the text, averaged over the speech tokens, that follows the text
    forward as `monotonic.follow` does, times the part of the text that is reached. A head that looks elsewhere, spreads
    its attention, or stays behind has a low one.
    """
    device = model.speech_embedding.weight.device
    blocks = tuple(range(-(-len(spoken.inputs) // BLOCK_SIZE)))
    cache = KVCache(model.config, len(blocks), BLOCK_SIZE, device, model.dtype)
    tap = _AllQueries()
    model(build_batch([SequenceInput(spoken.inputs, 0, blocks)], BLOCK_SIZE, device, tap), cache)
    slots = torch.tensor(spoken.text_slots, device=device)
    group = model.config.num_heads // model.config.num_kv_heads
    scores = torch.zeros(model.config.num_layers, model.config.num_heads)
    for layer, query in enumerate(tap.layers):
        # The last token is fed, but nothing is sampled from it.
        speaking = query[spoken.first : -1]
        for head in range(model.config.num_heads):
            keys = cache.keys_at(layer, head // group, slots // BLOCK_SIZE, slots % BLOCK_SIZE)
            logits = speaking[:, head] @ keys.T / model.config.head_dim**0.5
            scores[layer, head] = _score(logits)
    return scores


def _score(logits: Tensor) -> float:
    """Return the score of one head from its logits [speech tokens, text ids]."""
    attention, rows = logits.softmax(dim=1).tolist(), logits.tolist()
    position, on_path = 0, 0.0
    for row, shares in zip(rows, attention, strict=True):
        position = follow(row, 0, position).position
        on_path += shares[position]
    reached = min(1.0, (position + 2) / logits.shape[1])  # the last id is a mark
    return reached * on_path / max(1, len(rows))
