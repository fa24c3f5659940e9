"""Where the attention chunks of an utterance end: the rule that llm and decode share (spec section 5.2).

The llm service sends tokens when they complete a chunk, and the decode service computes whole chunks. A checkpoint has
a default plan; a request may name another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

WHOLE_UTTERANCE = 2**31 - 1
"""A first boundary beyond any utterance: one chunk, full attention (upstream's one-shot mode)."""


@dataclass(frozen=True)
class ChunkPlan:
    """Chunk boundaries in absolute tokens, prompt included (spec sections 5.2 and 6.3).

    The first chunk ends at `first_boundary`, later ones at the multiples of `chunk_tokens` beyond it; the last chunk
    ends where the utterance ends. The default is the plan the checkpoints were trained with. Raises ValueError, in the
    field names of the proto message `ChunkPlan`, if a number is less than 1.
    """

    first_boundary: int = 25
    chunk_tokens: int = 25

    def __post_init__(self) -> None:
        if self.first_boundary < 1 or self.chunk_tokens < 1:
            raise ValueError(
                "chunk and first_border of a chunk plan must be at least 1, "
                f"got {self.chunk_tokens} and {self.first_boundary}"
            )

    @classmethod
    def whole(cls) -> ChunkPlan:
        """Full attention: the whole utterance is one chunk, so nothing can be decoded before its end."""
        return cls(first_boundary=WHOLE_UTTERANCE)

    def boundary_at_or_after(self, position: int) -> int:
        """The first boundary at or after `position` (tokens)."""
        if position <= self.first_boundary:
            return self.first_boundary
        return -(-position // self.chunk_tokens) * self.chunk_tokens

    def boundary_at_or_before(self, position: int) -> int:
        """The last boundary at or before `position` (tokens); 0 if there is none."""
        if position < self.first_boundary:
            return 0
        return max(self.first_boundary, position // self.chunk_tokens * self.chunk_tokens)

    def chunk_end(self, token: int) -> int:
        """The boundary that ends the chunk of `token`, which attends to every position before that boundary."""
        return self.boundary_at_or_after(token + 1)

    def chunks(self, start: int, end: int) -> list[tuple[int, int]]:
        """The chunks of tokens [start, end) as (start, end) pairs; the last one is cut at `end`."""
        boundaries = [start]
        while boundaries[-1] < end:
            boundaries.append(min(end, self.chunk_end(boundaries[-1])))
        return list(pairwise(boundaries))
