"""How many speech tokens to send to the decode service at once: it cannot decode a part of a chunk."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.checkpoint.chunk_plan import ChunkPlan


@dataclass(frozen=True)
class HopPlan:
    """The chunks of an utterance; each can be decoded once the `lookahead` tokens after it are known (spec 5.2)."""

    chunks: ChunkPlan
    lookahead: int

    @property
    def longest(self) -> int:
        """An upper bound of the tokens that a hop needs beyond the ones already spoken."""
        return max(self.chunks.first_boundary, 2 * self.chunks.chunk_tokens) + self.lookahead

    def next(self, prompt_tokens: int, sent: int) -> int:
        """The number of tokens, including the `sent` ones, that complete the current chunk and its lookahead."""
        position = prompt_tokens + max(0, sent - self.lookahead)
        return self.chunks.chunk_end(position) - prompt_tokens + self.lookahead
