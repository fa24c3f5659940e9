"""Registered voices in Redis: one hash of records by id per owner, one hash of recording and contents per voice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.redis_client import reached
from gateway.voices.record import VoiceRecord

if TYPE_CHECKING:
    from redis.asyncio import Redis

AUDIO = "audio"
_UNUSABLE = "voices cannot be stored or read"

# Each script is atomic: a record never exists without its recording, nor a recording without its record.
_ADD = """
if redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
return 1
"""
_KEEP = """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
return redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
"""
_REPLACE = """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
"""
_DELETE = """
redis.call('DEL', KEYS[2])
return redis.call('HDEL', KEYS[1], ARGV[1])
"""


class RedisStore:
    """Satisfies gateway.voices.store.VoiceStore. The creator of the client closes it."""

    def __init__(self, client: Redis, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    async def add(self, record: VoiceRecord, audio: bytes) -> bool:
        return bool(await self._run(_ADD, record.owner, record.id, record.to_json(), AUDIO, audio))

    async def get(self, owner: str, id_: str) -> VoiceRecord | None:
        with reached(_UNUSABLE):
            metadata = await self._client.hget(self._index(owner), id_)
        return None if metadata is None else VoiceRecord.from_json(metadata)

    async def owned(self, owner: str) -> list[VoiceRecord]:
        with reached(_UNUSABLE):
            all_metadata = await self._client.hvals(self._index(owner))
        return sorted(map(VoiceRecord.from_json, all_metadata), key=lambda record: record.created)

    async def audio(self, owner: str, id_: str) -> bytes | None:
        return await self._field(owner, id_, AUDIO)

    async def content(self, owner: str, id_: str, model: str) -> bytes | None:
        return await self._field(owner, id_, f"content {model}")

    async def keep_content(self, owner: str, id_: str, model: str, content: bytes) -> None:
        await self._run(_KEEP, owner, id_, f"content {model}", content)

    async def replace(self, record: VoiceRecord) -> bool:
        return bool(await self._run(_REPLACE, record.owner, record.id, record.to_json()))

    async def delete(self, owner: str, id_: str) -> bool:
        return bool(await self._run(_DELETE, owner, id_))

    async def close(self) -> None:
        """Does nothing: the client belongs to its creator."""

    async def _field(self, owner: str, id_: str, name: str) -> bytes | None:
        with reached(_UNUSABLE):
            found = await self._client.hget(self._voice(owner, id_), name)
        return found.encode() if isinstance(found, str) else found  # bytes, unless the client decodes replies

    async def _run(self, script: str, owner: str, id_: str, *arguments: str | bytes) -> Any:
        with reached(_UNUSABLE):
            return await self._client.eval(script, 2, self._index(owner), self._voice(owner, id_), id_, *arguments)

    # The braces keep an owner's keys on one node of a Redis cluster, which scripts require.
    def _index(self, owner: str) -> str:
        return f"{self._prefix}voices:{{{owner}}}"

    def _voice(self, owner: str, id_: str) -> str:
        return f"{self._prefix}voice:{{{owner}}}:{id_}"
