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

_Places = list[list[int]]
"""For each sequence where the first K/V head's keys of text ids are, as rows of a layer's keys: as many for all."""
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
        self._host_scale = np.float32(self._scale)
        self.width = len(self.groups) * config.head_dim
        """Values per sequence that `QueryTap.summed` returns; 0 if there are no heads to use."""

    def tap(self) -> QueryTap | None:
        """Return the tap for one forward pass, None without heads."""
        return QueryTap(self._by_layer) if self.heads else None

    def align(self, batch: Sequence[ScheduledSequence], counts: Sequence[int], queries: Tensor, cache: KVCache) -> None:
        """Fill `aligned` of each sequence, for the first `counts` of its tokens.

        queries [steps or more, sequences or more, width]: those with which each token was sampled.
        """
        for scheduled in batch:
            scheduled.aligned.clear()  # a step that failed is repeated
        rows = [self._window(scheduled, count) for scheduled, count in zip(batch, counts, strict=True)]
        longest = max([len(slots) for _, slots in rows], default=0)
        if not longest:
            return
        where = [
            self._places(scheduled, slots, longest, cache) for scheduled, (_, slots) in zip(batch, rows, strict=True)
        ]
        scores = (self._scores if cache.host_keys is None else self._host_scores)(where, max(counts), queries, cache)
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

    def _places(self, scheduled: ScheduledSequence, slots: Sequence[int], most: int, cache: KVCache) -> list[int]:
        """Return the rows of a layer's keys that hold the first K/V head's keys of these slots, `most` rows."""
        blocks, size, row = scheduled.sequence.blocks, cache.block_size, cache.rows_per_block
        places = [blocks[slot // size] * row + slot % size for slot in slots]
        return places if len(places) == most else places + [0] * (most - len(places))

    def _scores(self, where: _Places, steps: int, queries: Tensor, cache: KVCache) -> list[list[list[float]]]:
        """Return the mean logits of the heads [sequences, steps, text ids] for the keys in these rows."""
        slots = [[divmod(place, cache.rows_per_block) for place in places] for places in where]
        blocks, offsets = torch.tensor(slots, device=queries.device).unbind(2)
        parts = [cache.keys_at(group.layer, group.kv_head, blocks, offsets) for group in self.groups]
        keys = torch.cat(parts, dim=2)
        needed = queries[:steps, : len(where)].transpose(0, 1)
        scores: list[list[list[float]]] = torch.bmm(needed, keys.transpose(1, 2)).mul_(self._scale).tolist()
        return scores

    def _host_scores(self, where: _Places, steps: int, queries: Tensor, cache: KVCache) -> list[list[list[float]]]:
        """As `_scores`, for float32 on a CPU, where numpy costs a fraction of small operations of torch."""
        rows, size, stored = np.array(where), cache.block_size, cache.host_keys or ()
        parts = [stored[group.layer].take(rows + group.kv_head * size, axis=0) for group in self.groups]
        keys = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
        needed = queries.numpy()[:steps, : len(where)].transpose(1, 0, 2)
        logits = np.matmul(needed, keys.transpose(0, 2, 1))
        logits *= self._host_scale
        scores: list[list[list[float]]] = logits.tolist()
        return scores
