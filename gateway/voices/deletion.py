"""Evicts a deleted voice from every cache: this gateway's, the result cache and the workers'."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import structlog

from gateway import metrics
from gateway.cache.store import ResultStore
from gateway.voices.content_cache import VoiceContentCache
from services.common.errors import Unavailable
from services.common.pool import Pool
from services.common.voices.deletion import evict_on_all_workers

log = structlog.get_logger(__name__)

MAX_PENDING = 1000
"""Voices that some worker has not evicted yet. Beyond it the oldest one is left to the workers' own cache limits."""


class VoiceDeletion:
    """Evicts from this process and its workers. Gateways that share a voice store each do this on their own."""

    def __init__(self, memory: VoiceContentCache, speech_cache: ResultStore | None, pools: Sequence[Pool]) -> None:
        """`pools`: encode and llm workers; llm workers pass the eviction on to the decode workers."""
        self._memory = memory
        self._speech_cache = speech_cache
        self._pools = pools
        self._pending: OrderedDict[str, None] = OrderedDict()

    def expect(self, voice_hash: str) -> None:
        """Let `retry` evict a voice, should the deletion be cancelled before `evict` has reached every worker."""
        self._pending[voice_hash] = None
        while len(self._pending) > MAX_PENDING:
            self._pending.popitem(last=False)

    async def evict_results(self, voice_hash: str) -> None:
        """Evict the results of a voice. Raises Unavailable: results may still be there."""
        if self._speech_cache is not None:
            await self._speech_cache.evict(voice_hash)

    async def evict(self, voice_hash: str) -> None:
        """Evict a voice here and on every worker. `retry` repeats this for what cannot be reached."""
        self.expect(voice_hash)
        self._memory.evict(voice_hash)
        results_left = False
        try:
            await self.evict_results(voice_hash)
        except Unavailable:
            results_left = True
            log.warning("the result cache may hold speech of a deleted voice; eviction is retried")
        unreached = 0
        for pool in self._pools:
            unreached += await evict_on_all_workers(pool, voice_hash)
        if unreached:
            metrics.VOICES_NOT_EVICTED.inc(unreached)
            log.warning("unreached workers may hold a deleted voice; eviction is retried", workers=unreached)
        if not unreached and not results_left:
            self._pending.pop(voice_hash, None)

    async def retry(self) -> None:
        """Repeat the evictions that did not reach every worker."""
        for voice_hash in tuple(self._pending):
            await self.evict(voice_hash)

    def holds(self, voice_hash: str) -> bool:
        """Return whether this process caches a voice's content or results."""
        return self._memory.holds(voice_hash) or (
            self._speech_cache is not None and self._speech_cache.holds(voice_hash)
        )
