"""What streams of one voice have in common: the prompt's complete chunks, computed once (spec section 6.3).

The chunks of the prompt whose lookahead lies in the prompt too depend on the voice alone. Every stream of a voice
starts from the same past, so a known voice's first hop computes only what is new, and its blocks are held once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from services.common.checkpoint.chunk_plan import ChunkPlan
from services.decode.flow.model import Flow, FlowHop, FlowState
from services.decode.flow.pool import Past

LARGEST_SHARE = 0.5
"""Of the pool's blocks, held by prompts; beyond that the least recently used one goes."""


class Prompts:
    """Pasts of voices' prompts by voice and chunk plan. Used by the engine's thread alone."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._pasts: OrderedDict[tuple[str, ChunkPlan], Past] = OrderedDict()
        self.computed = 0
        self.shared = 0

    @property
    def blocks(self) -> int:
        return sum(len(past.blocks) for past in self._pasts.values())

    def length(self, prompt: int, plan: ChunkPlan) -> int:
        """How many of a prompt's tokens can be shared: whole chunks, whole blocks, lookahead included; 0 for none."""
        end = plan.boundary_at_or_before(prompt - self._flow.config.lookahead_tokens)
        return 0 if end % self._flow.pool.block_tokens else end

    def kept_tokens(self, voice: str, state: FlowState) -> int:
        """Tokens a stream without a past would not have to compute."""
        past = self._pasts.get((voice, state.plan))
        return past.tokens if past is not None else 0

    def begin(self, voice: str, state: FlowState, beat: Callable[[], None]) -> None:
        """Gives a stream without a past its voice's, which is computed at first use and when there is room."""
        end = self.length(state.prompt, state.plan)
        if not voice or not end or state.past is not None:
            return
        key = (voice, state.plan)
        past = self._pasts.get(key)
        if past is None:
            past = self._compute(state, end, beat)
            if past is None:
                return
            self.computed += 1
            self._pasts[key] = past
            while self.blocks > LARGEST_SHARE * self._flow.pool.blocks and len(self._pasts) > 1:
                self.forget_one()
        else:
            self.shared += 1
        self._pasts.move_to_end(key)
        state.past = past

    def forget_one(self) -> bool:
        """Drops the prompt used least recently; its blocks stay with the streams that use them. False without any."""
        if not self._pasts:
            return False
        self._pasts.popitem(last=False)
        return True

    def forget(self, voice: str) -> None:
        """Drops a voice's prompt, under every plan."""
        for key in [key for key in self._pasts if key[0] == voice]:
            del self._pasts[key]

    def _compute(self, state: FlowState, end: int, beat: Callable[[], None]) -> Past | None:
        prompt = replace(state, done=0, past=None, tokens=[])
        self._flow.append([FlowHop(prompt, end, final=False)], beat)
        return prompt.past
