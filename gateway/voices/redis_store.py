"""Registered voices in Redis: one hash of records by id per owner, one hash of recording and contents per voice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import structlog

from gateway.redis_client import reached
from gateway.voices.record import VoiceRecord

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = structlog.get_logger(__name__)

AUDIO = "audio"
_UNUSABLE = "voices cannot be stored or read"

# Each script is atomic: a record never exists without its recording, nor a recording without its record.
_ADD = """
if ARGV[3] ~= '' then
  for _, stored in ipairs(redis.call('HVALS', KEYS[1])) do
    local readable, record = pcall(cjson.decode, stored)
    if readable and type(record) == 'table' and record.name == ARGV[3] then return 0 end
  end
end
if redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
redis.call('DEL', KEYS[2])
for field = 4, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[field], ARGV[field + 1]) end
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

    async def add(
        self,
        record: VoiceRecord,
        audio: bytes,
        contents: Mapping[str, bytes] | None = None,
        *,
        unique_name: bool = False,
    ) -> bool:
        fields: list[str | bytes] = [record.name if unique_name else "", AUDIO, audio]
        for model, content in (contents or {}).items():
            fields += [_content_name(model), content]
        return bool(await self._run(_ADD, record.owner, record.id, record.to_json(), *fields))

    async def get(self, owner: str, id_: str) -> VoiceRecord | None:
        with reached(_UNUSABLE):
            metadata = await self._client.hget(self._index(owner), id_)
        return None if metadata is None else self._record(owner, id_, metadata)

    async def owned(self, owner: str) -> list[VoiceRecord]:
        with reached(_UNUSABLE):
            all_metadata = await self._client.hgetall(self._index(owner))
        records = [self._record(owner, id_, metadata) for id_, metadata in all_metadata.items()]
        return sorted((record for record in records if record is not None), key=lambda record: record.created)

    async def audio(self, owner: str, id_: str) -> bytes | None:
        return await self._field(owner, id_, AUDIO)

    async def content(self, owner: str, id_: str, model: str) -> bytes | None:
        return await self._field(owner, id_, _content_name(model))

    async def keep_content(self, owner: str, id_: str, model: str, content: bytes) -> None:
        await self._run(_KEEP, owner, id_, _content_name(model), content)

    async def replace(self, record: VoiceRecord) -> bool:
        return bool(await self._run(_REPLACE, record.owner, record.id, record.to_json()))

    async def delete(self, owner: str, id_: str) -> bool:
        return bool(await self._run(_DELETE, owner, id_))

    async def close(self) -> None:
        """Does nothing: the client belongs to its creator."""

    def _record(self, owner: str, id_: str | bytes, metadata: str | bytes) -> VoiceRecord | None:
        """Parse a record; None for one that this version cannot read, because one voice must not hide the others."""
        try:
            return VoiceRecord.from_json(metadata)
        except (ValueError, KeyError, TypeError) as error:
            log.error(
                "a registered voice is damaged or of a later version; delete the field of a damaged one",
                key=self._index(owner),
                field=id_ if isinstance(id_, str) else id_.decode(errors="replace"),
                reason=str(error),
            )
            return None

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


def _content_name(model: str) -> str:
    return f"content {model}"
