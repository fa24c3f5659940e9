"""A deleted voice leaves every memory: this gateway's, that of finished speech, and the workers'."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import structlog

from gateway import metrics
from gateway.cache.store import ResultStore
from gateway.voices.content_cache import VoiceContentCache
from services.common.pool import Pool
from services.common.voices.deletion import evict_on_all_workers

log = structlog.get_logger(__name__)

MAX_UNFINISHED = 1000
"""Voices that some worker has not been told of yet; beyond that the oldest is left to the workers' own limits."""


class VoiceDeletion:
    """Reaches what this process knows of; gateways that share a store of voices each see to their own."""

    def __init__(self, memory: VoiceContentCache, speech_cache: ResultStore | None, pools: Sequence[Pool]) -> None:
        """`pools`: encode and llm workers; the latter tell the decode workers."""
        self._memory = memory
        self._speech_cache = speech_cache
        self._pools = pools
        self._unfinished: OrderedDict[str, None] = OrderedDict()

    async def forget(self, voice_hash: str) -> None:
        """Drops a voice here and at every worker. Those that cannot be reached are told by `finish`."""
        self._memory.forget(voice_hash)
        if self._speech_cache is not None:
            await self._speech_cache.forget(voice_hash)
        unreached = 0
        for pool in self._pools:
            unreached += await evict_on_all_workers(pool, voice_hash)
        if unreached:
            metrics.VOICES_NOT_FORGOTTEN.inc(unreached)
            log.warning("workers hold a deleted voice until they are reached", workers=unreached)
            self._unfinished[voice_hash] = None
            while len(self._unfinished) > MAX_UNFINISHED:
                self._unfinished.popitem(last=False)
        else:
            self._unfinished.pop(voice_hash, None)

    async def finish(self) -> None:
        """Tries again what could not be finished."""
        for voice_hash in tuple(self._unfinished):
            await self.forget(voice_hash)

    def held(self, voice_hash: str) -> bool:
        """Whether anything of a voice is in this process's memory."""
        return self._memory.holds(voice_hash) or (
            self._speech_cache is not None and self._speech_cache.holds(voice_hash)
        )
