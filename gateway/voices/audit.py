"""Who registered, changed and deleted voices and consents, when, from where and with which consent.

An entry is stored where the voices are, before its operation, so that no voice exists without one; an operation that
fails afterwards leaves its entry. Each operation, and each refusal, is also one line of the logger `gateway.audit`.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import os
import re
import socket
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from gateway.auth.caller import Caller, current_source
from gateway.redis_client import reached
from services.common.errors import LightTtsError, Unavailable
from services.common.telemetry import current_request_id

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = structlog.get_logger(__name__)
audit = structlog.get_logger("gateway.audit")

AUDIT_FOLDER = ".audit"
"""In the directory of voices."""
MAX_REDIS_ENTRIES = 100_000
"""About 40 MB. Older ones leave Redis; the log has them."""
MAX_NAME_CHARS = 64
_UNUSABLE = "the audit of voices cannot be written or read"
_PATTERN = "*.jsonl"

Entry = dict[str, Any]


class AuditTrail(Protocol):
    """Every method raises Unavailable when the trail cannot be reached or used."""

    async def append(self, entry: Entry) -> None:
        """Store an entry."""

    async def entries(self) -> list[Entry]:
        """Return all entries, oldest first."""


class DirectoryTrail:
    """One file per month and machine, a line of JSON per entry: machines that share a network file system never append
    to the same file."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def append(self, entry: Entry) -> None:
        await asyncio.to_thread(self._append, entry)

    async def entries(self) -> list[Entry]:
        return await asyncio.to_thread(self._entries)

    def _append(self, entry: Entry) -> None:
        host = re.sub(r"[^A-Za-z0-9._-]", "_", socket.gethostname())
        path = self._root / f"{entry['time'][:7]}.{host}.jsonl"
        try:
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                # One call: lines of processes that append at the same time do not mix.
                os.write(descriptor, _line(entry).encode() + b"\n")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._unusable(error) from error

    def _entries(self) -> list[Entry]:
        found: list[Entry] = []
        try:
            for path in sorted(self._root.glob(_PATTERN)):
                for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                    with contextlib.suppress(json.JSONDecodeError):  # a line that a crash cut off
                        found.append(json.loads(line))
        except OSError as error:
            raise self._unusable(error) from error
        return sorted(found, key=lambda entry: str(entry.get("time", "")))

    def _unusable(self, error: OSError) -> Unavailable:
        log.error("the audit of voices cannot be used", path=str(self._root), reason=str(error))
        return Unavailable(f"{_UNUSABLE} now; the operator has to check the voice directory")


class RedisTrail:
    """A stream of Redis. The creator of the client closes it."""

    def __init__(self, client: Redis, prefix: str) -> None:
        self._client = client
        self._name = f"{prefix}audit"

    async def append(self, entry: Entry) -> None:
        with reached(_UNUSABLE):
            await self._client.xadd(self._name, {"entry": _line(entry)}, maxlen=MAX_REDIS_ENTRIES, approximate=True)

    async def entries(self) -> list[Entry]:
        with reached(_UNUSABLE):
            stored: Any = await self._client.xrange(self._name)
        # Names are bytes, unless the client decodes replies.
        return [json.loads(fields.get(b"entry") or fields["entry"]) for _, fields in stored]


class Audit:
    """Records operations on voices and consents."""

    def __init__(self, trail: AuditTrail, now: Callable[[], float] = time.time) -> None:
        self._trail = trail
        self._now = now

    @contextlib.asynccontextmanager
    async def operation(self, operation: str, caller: Caller, about: Entry, **logged: Any) -> AsyncGenerator[None]:
        """Store an entry, run the block, and log the operation if the block raises nothing.

        `about`: what the entry says besides time, key, owner and source. `logged`: further fields of the log line.
        """
        source = current_source()
        at = datetime.datetime.fromtimestamp(self._now(), datetime.UTC).isoformat(timespec="milliseconds")
        who = {"key": caller.name, "owner": caller.owner, "source": source}
        await self._trail.append(
            {"time": at, "operation": operation, **who, **about, "request_id": current_request_id()}
        )
        yield
        audit.info(operation, **who, **about, **logged)

    @contextlib.contextmanager
    def refusals(self, operation: str, caller: Caller, name: str) -> Iterator[None]:
        """Log an error that leaves the block, as the refusal of an operation. Raises it."""
        try:
            yield
        except LightTtsError as error:
            audit.info(
                operation,
                key=caller.name,
                owner=caller.owner,
                source=current_source(),
                name=name[:MAX_NAME_CHARS],
                reason=error.reason,
                field=error.field,
                message=error.message,
            )
            raise


def _line(entry: Entry) -> str:
    return json.dumps(entry, ensure_ascii=False)
