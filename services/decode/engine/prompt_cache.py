"""Cached prompts of voices: the prompt's complete chunks, computed once per voice (spec section 6.3).

The chunks of a prompt whose lookahead lies in the prompt too depend on the voice alone. All streams of a voice start
from the same cached state, so the first hop of a known voice computes only what is new, and the blocks exist once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from services.common.checkpoint.chunk_plan import ChunkPlan
from services.decode.flow.kv_cache import EMPTY_STATE, KvState
from services.decode.flow.model import Flow, FlowHop, FlowState

LARGEST_SHARE = 0.5
"""Largest share of the pool's blocks for prompts; above it the least recently used prompt is evicted."""


class PromptCache:
    """Cached states of prompts by voice and chunk plan. Used by the engine's thread alone, except `cached_tokens`."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._states: OrderedDict[tuple[str, ChunkPlan], KvState] = OrderedDict()
        self.computed = 0
        self.shared = 0

    @property
    def blocks(self) -> int:
        return sum(len(state.blocks) for state in self._states.values())

    def length(self, prompt: int, plan: ChunkPlan) -> int:
        """Number of a prompt's tokens that can be shared: whole chunks and blocks, whose lookahead is in the prompt."""
        end = plan.boundary_at_or_before(prompt - self._flow.config.lookahead_tokens)
        return 0 if end % self._flow.pool.block_tokens else end

    def cached_tokens(self, voice: str, plan: ChunkPlan) -> int:
        """Number of tokens that a stream without a state of its own need not compute. Any thread may call it."""
        state = self._states.get((voice, plan))
        return state.tokens if state is not None else 0

    def begin(self, voice: str, stream: FlowState, beat: Callable[[], None]) -> None:
        """Give a stream without a state the one of its voice, which is computed at first use if blocks are free."""
        end = self.length(stream.prompt, stream.plan)
        if not voice or not end or stream.kv_state is not None:
            return
        key = (voice, stream.plan)
        state = self._states.get(key)
        if state is None:
            state = self._compute(stream, end, beat)
            if state is None:
                return
            self.computed += 1
            self._states[key] = state
            while self.blocks > LARGEST_SHARE * self._flow.pool.blocks and len(self._states) > 1:
                self.evict_one()
        else:
            self.shared += 1
        self._states.move_to_end(key)
        stream.kv_state = state

    def evict_one(self) -> bool:
        """Evict the least recently used prompt; streams that use it keep its blocks. False if there is none."""
        if not self._states:
            return False
        self._states.popitem(last=False)
        return True

    def evict_voice(self, voice: str) -> None:
        """Evict a voice's prompt, under every plan."""
        for key in [key for key in self._states if key[0] == voice]:
            del self._states[key]

    def _compute(self, stream: FlowState, end: int, beat: Callable[[], None]) -> KvState | None:
        """Return the state of the first `end` tokens; None, at no cost, if too few blocks are free to keep it."""
        if self._flow.pool.missing_blocks(EMPTY_STATE, end) > self._flow.pool.free_blocks:
            return None
        prompt = replace(stream, done=0, kv_state=None, tokens=[])
        self._flow.append([FlowHop(prompt, end, final=False)], beat)
        return prompt.kv_state
