"""How many speech tokens go to the decode stage at once: it can do nothing with half a chunk."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.checkpoint.model_dir import FlowConfig


@dataclass(frozen=True)
class HopPlan:
    """Chunk borders in absolute tokens, prompt included: `first_border`, then every multiple of `chunk` after it.

    A chunk can be decoded once the `lookahead` tokens behind its border are known too (spec section 5.2).
    """

    first_border: int
    chunk: int
    lookahead: int

    def __post_init__(self) -> None:
        if self.first_border < 1 or self.chunk < 1:
            raise ValueError("chunk and first_border must be at least 1")

    @classmethod
    def default(cls, flow: FlowConfig) -> HopPlan:
        """The checkpoint's own plan."""
        return cls(flow.chunk_tokens, flow.chunk_tokens, flow.lookahead_tokens)

    @property
    def longest(self) -> int:
        """More tokens than any hop needs beyond those already spoken."""
        return max(self.first_border, 2 * self.chunk) + self.lookahead

    def next(self, prompt_tokens: int, sent: int) -> int:
        """The number of tokens, the `sent` ones included, that complete the chunk under way and its lookahead."""
        position = prompt_tokens + max(0, sent - self.lookahead)
        border = self.first_border
        if position >= border:
            border = (position // self.chunk + 1) * self.chunk
        return border - prompt_tokens + self.lookahead
