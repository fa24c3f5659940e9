"""Aligns the speech tokens of a step with the text, by one product of a step's queries with the cached keys."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from services.common.checkpoint.model_dir import AlignmentHead, LlmConfig
from services.llm.alignment.monotonic import AHEAD, BEHIND, REACH, follow
from services.llm.alignment.queries import QueryTap, grouped
from services.llm.engine.scheduler import ScheduledSequence
from services.llm.model.kv_cache import KVCache

_Slots = list[list[tuple[int, int]]]
"""For each sequence the block and offset of text ids, as many for all of them."""
LEAST_SCORE = 0.5
"""Heads of a lower score are not used; times would be guesses."""


class Aligner:
    """The declared heads of one model. For one thread."""

    def __init__(self, heads: Sequence[AlignmentHead], config: LlmConfig) -> None:
        self.heads = tuple(head for head in heads if head.score >= LEAST_SCORE)
        self.groups = grouped(self.heads, config)
        self._by_layer = {
            group.layer: [each for each in self.groups if each.layer == group.layer] for group in self.groups
        }
        self._scale = config.head_dim**-0.5 / max(1, len(self.heads))
        self.width = len(self.groups) * config.head_dim
        """Values per sequence that `QueryTap.summed` returns; 0 if there are no heads to use."""

    def tap(self) -> QueryTap | None:
        """Return the tap for one forward pass, None without heads."""
        return QueryTap(self._by_layer) if self.heads else None

    def align(self, batch: Sequence[ScheduledSequence], counts: Sequence[int], queries: Tensor, cache: KVCache) -> None:
        """Fill `aligned` of each sequence, for the first `counts` of its tokens.

        queries [steps, sequences, width]: those with which each token was sampled.
        """
        for scheduled in batch:
            scheduled.aligned.clear()  # a step that failed is repeated
        size = cache.block_size
        rows = [self._window(scheduled, count) for scheduled, count in zip(batch, counts, strict=True)]
        longest = max((len(slots) for _, slots in rows), default=0)
        if not longest:
            return
        where = [
            [(blocks[slot // size], slot % size) for slot in slots] + [(0, 0)] * (longest - len(slots))
            for (_, slots), blocks in zip(rows, (scheduled.sequence.blocks for scheduled in batch), strict=True)
        ]
        on_host = queries.device.type == "cpu" and not cache.quantized and cache.dtype == torch.float32
        scores = (self._host_scores if on_host else self._scores)(where, queries, cache)
        for scheduled, count, (first, slots), row in zip(batch, counts, rows, scores, strict=True):
            position = scheduled.sequence.text_position
            if position is None:
                continue
            for step in row[:count]:
                aligned = follow(step[: len(slots)], first, position)
                position = aligned.position
                scheduled.aligned.append(aligned)

    def _window(self, scheduled: ScheduledSequence, count: int) -> tuple[int, Sequence[int]]:
        """Return the first text id that matters for the next `count` tokens, and the slots of it and those after it."""
        position = scheduled.sequence.text_position
        if position is None or not count:
            return 0, ()
        first = max(0, position - BEHIND)
        return first, scheduled.sequence.layout.text_slots[first : position + (REACH - 1) * count + AHEAD]

    def _scores(self, where: _Slots, queries: Tensor, cache: KVCache) -> list[list[list[float]]]:
        """Return the mean logits of the heads [sequences, steps, text ids] for the keys in these slots."""
        slots = torch.tensor(where, device=queries.device)
        parts = [cache.keys_at(group.layer, group.kv_head, slots[..., 0], slots[..., 1]) for group in self.groups]
        keys = torch.cat(parts, dim=2)
        scores: list[list[list[float]]] = (
            torch.bmm(queries.transpose(0, 1), keys.transpose(1, 2)).mul_(self._scale).tolist()
        )
        return scores

    def _host_scores(self, where: _Slots, queries: Tensor, cache: KVCache) -> list[list[list[float]]]:
        """As `_scores`, for float32 on a CPU, where numpy costs a fraction of small operations of torch."""
        slots = np.array(where)
        blocks, offsets = slots[..., 0], slots[..., 1]
        parts = [cache.keys[group.layer].numpy()[blocks, group.kv_head, offsets] for group in self.groups]
        keys = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
        logits = np.matmul(queries.numpy().transpose(1, 0, 2), keys.transpose(0, 2, 1))
        scores: list[list[list[float]]] = (logits * np.float32(self._scale)).tolist()
        return scores
