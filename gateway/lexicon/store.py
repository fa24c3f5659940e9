"""Stores of callers' lexicons: a directory, or Redis. Gateways that share a store see each other's changes at once."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import structlog
from cachetools import LRUCache

from gateway.lexicon.record import LexiconRecord
from gateway.redis_client import reached
from services.common.errors import Unavailable

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = structlog.get_logger(__name__)

OWNERS_IN_MEMORY = 256
RACY_SECONDS = 2.0
"""A folder that changed so recently is read again: a further change may not have moved its time."""

_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_UNUSABLE = "the lexicon cannot be stored or read"

T = TypeVar("T")


class LexiconStore(Protocol):
    """Every method raises Unavailable when the store cannot be reached or used."""

    async def owned(self, owner: str) -> list[LexiconRecord]:
        """Return the owner's entries, ordered by phrase."""

    async def put(self, owner: str, record: LexiconRecord) -> bool:
        """Store an entry; it replaces one of the same phrase. Return whether there was one."""

    async def delete(self, owner: str, phrase: str) -> bool:
        """Delete the entry of a phrase. Return False if there was none."""


class DirectoryLexicons:
    """One file per entry, `owner/hash of the phrase.json`, which is added, replaced and removed atomically."""

    def __init__(self, root: Path, now: Callable[[], float] = time.time) -> None:
        self._root = root
        self._now = now
        self._read: LRUCache[str, tuple[int, list[LexiconRecord]]] = LRUCache(OWNERS_IN_MEMORY)
        self._reading = threading.Lock()
        """Protects `_read`: each request reads in a thread."""

    async def owned(self, owner: str) -> list[LexiconRecord]:
        return await self._do(lambda: self._owned(self._folder(owner), owner))

    async def put(self, owner: str, record: LexiconRecord) -> bool:
        return await self._do(lambda: self._put(self._folder(owner), record))

    async def delete(self, owner: str, phrase: str) -> bool:
        return await self._do(lambda: self._delete(self._folder(owner) / _file_name(phrase)))

    def _folder(self, owner: str) -> Path:
        if not _OWNER.fullmatch(owner):
            raise ValueError(f"no lexicon can be stored under {owner!r}")
        return self._root / owner

    async def _do(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        except OSError as error:
            log.error("the folder of lexicons cannot be used", path=str(self._root), reason=str(error))
            raise Unavailable(f"{_UNUSABLE} now; the operator has to check the voice directory") from error

    def _owned(self, folder: Path, owner: str) -> list[LexiconRecord]:
        try:
            changed = folder.stat().st_mtime_ns
        except FileNotFoundError:
            return []
        with self._reading:
            known = self._read.get(owner)
        if known is not None and known[0] == changed:
            return known[1]
        records = [record for file in folder.glob("*.json") if (record := _record(file)) is not None]
        records.sort(key=lambda record: record.phrase)
        if abs(self._now() - changed / 1e9) > RACY_SECONDS:
            with self._reading:
                self._read[owner] = (changed, records)
        return records

    def _put(self, folder: Path, record: LexiconRecord) -> bool:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        staged, file = folder / f".{secrets.token_hex(8)}", folder / _file_name(record.phrase)
        try:
            with open(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
                out.write(record.to_json())
                out.flush()
                os.fsync(out.fileno())
            existed = file.exists()
            staged.replace(file)
        finally:
            staged.unlink(missing_ok=True)
        return existed

    def _delete(self, file: Path) -> bool:
        try:
            file.unlink()
        except FileNotFoundError:
            return False
        return True


class RedisLexicons:
    """One hash per owner: phrase to entry. The creator of the client closes it."""

    def __init__(self, client: Redis, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    async def owned(self, owner: str) -> list[LexiconRecord]:
        with reached(_UNUSABLE):
            stored = await self._client.hvals(self._name(owner))
        records = [record for text in stored if (record := _parsed(text, key=self._name(owner))) is not None]
        return sorted(records, key=lambda record: record.phrase)

    async def put(self, owner: str, record: LexiconRecord) -> bool:
        with reached(_UNUSABLE):
            return not await self._client.hset(self._name(owner), record.phrase, record.to_json())

    async def delete(self, owner: str, phrase: str) -> bool:
        with reached(_UNUSABLE):
            return bool(await self._client.hdel(self._name(owner), phrase))

    def _name(self, owner: str) -> str:
        return f"{self._prefix}lexicon:{{{owner}}}"


def _file_name(phrase: str) -> str:
    # Hashed: a phrase is a user's text and must not become part of a path.
    return f"{hashlib.sha256(phrase.encode()).hexdigest()[:32]}.json"


def _record(file: Path) -> LexiconRecord | None:
    with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
        return _parsed(file.read_bytes(), path=str(file))
    return None


def _parsed(text: str | bytes, **place: str) -> LexiconRecord | None:
    """Parse an entry; None for one that this version cannot read. `place`: where it is stored, for the log."""
    try:
        return LexiconRecord.from_json(text)
    except (ValueError, KeyError, TypeError) as error:
        log.error(
            "an entry of a lexicon is damaged or of a later version; delete a damaged one", reason=str(error), **place
        )
        return None
