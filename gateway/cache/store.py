"""Where finished speech lies: in this process, or in Redis for several gateways."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

from gateway.cache.key import ResultKey
from gateway.redis_client import reached
from services.common.errors import Unavailable

if TYPE_CHECKING:
    from redis.asyncio import Redis


class ResultStore(Protocol):
    """A cache: what is put may be gone at any time. No method raises because of the store itself."""

    async def get(self, key: ResultKey) -> bytes | None:
        """What was put under `key`."""

    async def put(self, key: ResultKey, result: bytes) -> None:
        """Keeps a finished result."""

    async def forget(self, voice_hash: str) -> None:
        """Drops everything spoken with a voice."""

    def holds(self, voice_hash: str) -> bool:
        """Whether this process keeps anything spoken with a voice; what lies elsewhere does not count."""


class MemoryResults:
    """The most recently used results, within a number of bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._speech_cache: OrderedDict[ResultKey, bytes] = OrderedDict()  # least recently used first
        self._bytes = 0

    async def get(self, key: ResultKey) -> bytes | None:
        result = self._speech_cache.get(key)
        if result is not None:
            self._speech_cache.move_to_end(key)
        return result

    async def put(self, key: ResultKey, result: bytes) -> None:
        self._drop(key)
        if len(result) > self._max_bytes:
            return
        self._speech_cache[key] = result
        self._bytes += len(result)
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._speech_cache)))

    async def forget(self, voice_hash: str) -> None:
        for key in [key for key in self._speech_cache if key.voice_hash == voice_hash]:
            self._drop(key)

    def holds(self, voice_hash: str) -> bool:
        return any(key.voice_hash == voice_hash for key in self._speech_cache)

    def _drop(self, key: ResultKey) -> None:
        self._bytes -= len(self._speech_cache.pop(key, b""))


class RedisResults:
    """One hash per voice, so that forgetting a voice is one command. Redis's own eviction bounds the whole."""

    def __init__(self, client: Redis, prefix: str, seconds: int) -> None:
        """`seconds`: a voice's results lapse together, so long after the last one came."""
        self._client = client
        self._prefix = prefix
        self._seconds = seconds

    async def get(self, key: ResultKey) -> bytes | None:
        with contextlib.suppress(Unavailable), reached("results cannot be read"):
            found = await self._client.hget(self._name(key.voice_hash), key.digest)
            return found.encode() if isinstance(found, str) else found  # bytes, as long as the client decodes nothing
        return None

    async def put(self, key: ResultKey, result: bytes) -> None:
        with contextlib.suppress(Unavailable), reached("results cannot be kept"):
            async with self._client.pipeline(transaction=True) as pipeline:
                pipeline.hset(self._name(key.voice_hash), key.digest, result)
                pipeline.expire(self._name(key.voice_hash), self._seconds)
                await pipeline.execute()

    async def forget(self, voice_hash: str) -> None:
        with contextlib.suppress(Unavailable), reached("results cannot be dropped"):
            await self._client.delete(self._name(voice_hash))

    def holds(self, voice_hash: str) -> bool:
        return False

    def _name(self, voice_hash: str) -> str:
        return f"{self._prefix}results:{voice_hash}"
