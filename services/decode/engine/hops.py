"""How far the next hop of a stream goes.

A *hop* is what is decoded in one go, a union of whole chunks of the request's `ChunkPlan`. Hops are chosen per stream
while it runs and change nothing but cost and latency.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import lru_cache

from services.common.checkpoint.chunk_plan import ChunkPlan


@dataclass(frozen=True)
class HopPolicy:
    """How many tokens a stream decodes at a time; it never changes which chunks exist.

    The first hop ends at the first boundary that gives `first_frames` mel frames of audio, apart from those that the
    vocoder holds back: the fewer it holds back, the shorter the hop and the sooner the audio. The engine makes it one
    chunk longer where that audio would not last until the next hop (`scheduler.ready_jobs`). Later hops take the
    largest of `sizes` (tokens, ascending) that is at most `lead_share` of the stream's lead: a stream far ahead of its
    listener is decoded in fewer, larger pieces, and a stream that has just begun gets its next second soon.
    """

    first_frames: int = 14
    sizes: tuple[int, ...] = (25, 50, 100)
    lead_share: float = 0.5
    token_rate: float = 25.0
    frames_per_token: int = 2

    def __post_init__(self) -> None:
        if self.first_frames < 1 or not self.sizes or any(size < 1 for size in self.sizes):
            raise ValueError("hop sizes must be positive token counts")
        if list(self.sizes) != sorted(self.sizes):
            raise ValueError(f"hop sizes must ascend, got {self.sizes}")

    def at_least(self, size: int) -> HopPolicy:
        """Return the policy of a worker whose load needs hops of at least `size` tokens, or of the largest of `sizes`.

        A first hop then gives at least half of such a hop's audio, because the next hop comes later.
        """
        least = min(size, self.sizes[-1])
        return self if least <= self.sizes[0] else _grown(self, least)

    def hop_end(self, plan: ChunkPlan, prompt: int, done: int, lead: float, held_frames: int) -> int:
        """The boundary (absolute tokens) that the next hop should reach if the utterance is long enough.

        `prompt` and `done` are absolute token positions (`done` = 0 before the first hop), `lead` is in seconds,
        `held_frames` the vocoder's right context.
        """
        if done <= prompt:
            least = -(-(self.first_frames + held_frames) // self.frames_per_token)
            return plan.boundary_at_or_after(max(prompt + least, done + 1))
        affordable = self.lead_share * lead * self.token_rate
        size = self.sizes[max(0, bisect_right(self.sizes, affordable) - 1)]
        return plan.boundary_at_or_after(done + size)


@lru_cache(maxsize=16)
def _grown(policy: HopPolicy, least: int) -> HopPolicy:
    frames = least * policy.frames_per_token // 2
    sizes = tuple(size for size in policy.sizes if size >= least)
    return replace(policy, first_frames=max(policy.first_frames, frames), sizes=sizes)
