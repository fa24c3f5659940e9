"""Stores of finished speech: in this process, or in Redis for several gateways."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

from cachetools import LRUCache

from gateway.cache.key import ResultKey
from gateway.redis_client import reached
from services.common.errors import Unavailable

if TYPE_CHECKING:
    from redis.asyncio import Redis


class ResultStore(Protocol):
    """A cache: a result may be evicted at any time. `get` and `put` do not raise because of the store itself."""

    async def get(self, key: ResultKey) -> bytes | None:
        """Return the result stored under `key`."""

    async def put(self, key: ResultKey, result: bytes) -> None:
        """Store a finished result."""

    async def evict(self, voice_hash: str) -> None:
        """Evict all results of a voice. Raises Unavailable: they may still be there."""

    def holds(self, voice_hash: str) -> bool:
        """Return whether this process keeps results of a voice; results in another store do not count."""


class MemoryResults:
    """The most recently used results, within a number of bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._results: LRUCache[ResultKey, bytes] = LRUCache(max_bytes, getsizeof=len)

    async def get(self, key: ResultKey) -> bytes | None:
        return self._results.get(key)

    async def put(self, key: ResultKey, result: bytes) -> None:
        with contextlib.suppress(ValueError):  # larger than the whole cache
            self._results[key] = result

    async def evict(self, voice_hash: str) -> None:
        for key in [key for key in self._results if key.voice_hash == voice_hash]:
            del self._results[key]

    def holds(self, voice_hash: str) -> bool:
        return any(key.voice_hash == voice_hash for key in self._results)


class RedisResults:
    """One Redis hash per voice, so that one command evicts a voice. Redis's own eviction bounds the total size."""

    def __init__(self, client: Redis, prefix: str, seconds: int) -> None:
        """`seconds`: all results of a voice expire together, `seconds` after the newest was stored."""
        self._client = client
        self._prefix = prefix
        self._seconds = seconds

    async def get(self, key: ResultKey) -> bytes | None:
        with contextlib.suppress(Unavailable), reached("results cannot be read"):
            found = await self._client.hget(self._name(key.voice_hash), key.digest)
            return found.encode() if isinstance(found, str) else found  # bytes, unless the client decodes replies
        return None

    async def put(self, key: ResultKey, result: bytes) -> None:
        with contextlib.suppress(Unavailable), reached("results cannot be stored"):
            async with self._client.pipeline(transaction=True) as pipeline:
                pipeline.hset(self._name(key.voice_hash), key.digest, result)
                pipeline.expire(self._name(key.voice_hash), self._seconds)
                await pipeline.execute()

    async def evict(self, voice_hash: str) -> None:
        with reached("cached speech of the voice cannot be removed"):
            await self._client.delete(self._name(voice_hash))

    def holds(self, voice_hash: str) -> bool:
        return False

    def _name(self, voice_hash: str) -> str:
        return f"{self._prefix}results:{voice_hash}"
