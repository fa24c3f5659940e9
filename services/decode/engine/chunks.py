"""Where a stream's attention chunks end, and how far its next hop goes.

The *chunk plan* belongs to the request: it decides which frames see each other, hence the audio. One-shot, streamed
and moved runs of a request share it. A *hop* is what is decoded in one go, a union of whole chunks; hops are chosen
per stream while it runs and change nothing but cost and latency.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

WHOLE_UTTERANCE = 2**31 - 1
"""A first border no utterance reaches: one chunk, so every frame sees every other (upstream's one-shot mode)."""


@dataclass(frozen=True)
class ChunkPlan:
    """Chunk borders in absolute tokens, prompt included (spec section 5.2, 6.3).

    The first chunk ends at `first_border`, later ones at the multiples of `chunk_tokens` beyond it; the last chunk
    ends where the utterance ends. The default is the plan the checkpoints were trained with.
    """

    first_border: int = 25
    chunk_tokens: int = 25

    def __post_init__(self) -> None:
        if self.first_border < 1 or self.chunk_tokens < 1:
            raise ValueError(f"chunk borders must be positive, got {self.first_border} and {self.chunk_tokens}")

    @classmethod
    def whole(cls) -> ChunkPlan:
        """Full attention: the whole utterance is one chunk, so nothing can be decoded before its end."""
        return cls(first_border=WHOLE_UTTERANCE)

    @classmethod
    def from_ints(cls, values: tuple[int, ...]) -> ChunkPlan:
        """The inverse of `to_ints`. Raises ValueError on anything but two positive integers."""
        if len(values) != 2:
            raise ValueError(f"a chunk plan is two integers, got {len(values)}")
        return cls(*values)

    def to_ints(self) -> tuple[int, int]:
        return self.first_border, self.chunk_tokens

    def border_at_least(self, position: int) -> int:
        """The first border at or after `position` (tokens)."""
        if position <= self.first_border:
            return self.first_border
        return -(-position // self.chunk_tokens) * self.chunk_tokens

    def border_at_most(self, position: int) -> int:
        """The last border at or before `position` (tokens); 0 when there is none."""
        if position < self.first_border:
            return 0
        return max(self.first_border, position // self.chunk_tokens * self.chunk_tokens)

    def chunk_end(self, token: int) -> int:
        """The border that ends the chunk holding `token`: attention sees every position before it."""
        return self.border_at_least(token + 1)

    def chunks(self, start: int, end: int) -> list[tuple[int, int]]:
        """The chunks of tokens [start, end) as (start, end) pairs; the last one is cut at `end`."""
        borders = [start]
        while borders[-1] < end:
            borders.append(min(end, self.chunk_end(borders[-1])))
        return list(pairwise(borders))


@dataclass(frozen=True)
class HopPolicy:
    """How many tokens a stream decodes at a time; it never changes which chunks exist.

    The first hop ends at the first border at least `first_min` tokens after the prompt. Later hops take the largest of
    `sizes` (tokens, ascending) that is at most `lead_share` of the stream's lead, so that a stream far ahead of its
    listener is decoded in fewer, larger pieces while one that has just begun gets its next second soon.
    """

    first_min: int = 15
    sizes: tuple[int, ...] = (25, 50, 100)
    lead_share: float = 0.5
    token_rate: float = 25.0

    def __post_init__(self) -> None:
        if self.first_min < 1 or not self.sizes or any(size < 1 for size in self.sizes):
            raise ValueError("hop sizes must be positive token counts")
        if list(self.sizes) != sorted(self.sizes):
            raise ValueError(f"hop sizes must ascend, got {self.sizes}")

    def hop_end(self, plan: ChunkPlan, prompt: int, done: int, lead: float) -> int:
        """The border (absolute tokens) the next hop should reach, were the utterance long enough.

        `prompt` and `done` are absolute token positions (`done` = 0 before the first hop), `lead` is in seconds.
        """
        if done <= prompt:
            return plan.border_at_least(max(prompt + self.first_min, done + 1))
        affordable = self.lead_share * lead * self.token_rate
        size = max((size for size in self.sizes if size <= affordable), default=self.sizes[0])
        return plan.border_at_least(done + size)
