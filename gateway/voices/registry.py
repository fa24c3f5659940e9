"""The operations on registered voices, with their limits and audit log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import structlog

from gateway.auth.caller import Caller
from gateway.auth.quota import Quotas
from gateway.auth.shares import Shares
from gateway.voices.deletion import VoiceDeletion
from gateway.voices.record import NewVoice, VoiceRecord, voice_id
from gateway.voices.resolver import VoiceResolver
from gateway.voices.store import VoiceStore, find
from lighttts.v1 import voice_pb2
from services.common.errors import AlreadyExists, InvalidInput, NotFound, QuotaExceeded, TimedOut, quoted

audit = structlog.get_logger("gateway.audit")
"""One line per operation: key, owner, operation and voice."""


@dataclass(frozen=True)
class UploadLimits:
    bytes: int
    """Size of one recording."""
    seconds: float
    """Time for one whole upload."""
    at_once: int
    """Concurrent uploads of all callers; each is held in memory until it is complete."""
    per_key: int
    """Concurrent uploads of one key."""
    silence_seconds: float
    """Longest wait for the next part of an upload."""
    voices: int
    """Voices per owner."""


class VoiceRegistry:
    """Registered voices. Only its owner can see and use a voice."""

    def __init__(
        self,
        store: VoiceStore,
        voices: VoiceResolver,
        quotas: Quotas,
        limits: UploadLimits,
        voice_deletion: VoiceDeletion,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._voices = voices
        self._quotas = quotas
        self._limits = limits
        self._voice_deletion = voice_deletion
        self._now = now
        self._uploads = Shares("voice uploads", limits.at_once, limits.per_key)

    async def create(self, caller: Caller, new: NewVoice, parts: AsyncIterator[bytes]) -> tuple[VoiceRecord, bool]:
        """Register a voice; return it, and whether the caller had it already. `parts`: the audio file in pieces.

        Raises InvalidInput for an unusable recording, AlreadyExists for a name of another voice, QuotaExceeded,
        Overloaded, TimedOut, Unavailable.
        """
        new.check()
        await self._quotas.spend(caller)
        with self._uploads.hold(caller):
            audio = await self._receive(parts)
            id_ = await asyncio.to_thread(voice_id, audio, new.transcript)
            existing = await self._check_name(caller, new.name, id_)
            if existing is not None:
                return existing, True
            content = await self._voices.extract(audio, new.transcript)
            record = VoiceRecord(
                id=id_,
                owner=caller.owner,
                name=new.name,
                description=new.description,
                languages=new.languages,
                transcript=new.transcript,
                seconds=content.seconds,
                warnings=tuple(content.warnings),
                created=self._now(),
            )
            added = await self._store.add(record, audio)
        await self._store.keep_content(caller.owner, id_, content.model, content.SerializeToString())
        self._audit("voice created", caller, record, bytes=len(audio), consent=True)
        return record, not added

    async def owned(self, caller: Caller) -> list[VoiceRecord]:
        """Return the caller's voices, oldest first."""
        records = await self._store.owned(caller.owner)
        audit.info("voices listed", key=caller.name, owner=caller.owner, count=len(records))
        return records

    async def get(self, caller: Caller, name_or_id: str) -> VoiceRecord:
        """Return one of the caller's voices. Raises NotFound."""
        record = await find(self._store, caller.owner, name_or_id)
        if record is None:
            raise NotFound(f"you have no voice {quoted(name_or_id)}; ListVoices lists your voices", field="voice")
        self._audit("voice read", caller, record)
        return record

    async def delete(self, caller: Caller, name_or_id: str) -> VoiceRecord:
        """Delete a voice permanently. Raises NotFound."""
        record = await find(self._store, caller.owner, name_or_id)
        if record is None:
            raise NotFound(f"you have no voice {quoted(name_or_id)}; ListVoices lists your voices", field="voice")
        content = await self._store.content(caller.owner, record.id, self._voices.model.model)
        if not await self._store.delete(caller.owner, record.id):
            raise NotFound(f"the voice {record.name!r} has just been deleted", field="voice")
        if content is not None:  # without content this model has never used the voice
            await self._voice_deletion.evict(voice_pb2.VoiceContent.FromString(content).voice_hash)
        self._audit("voice deleted", caller, record)
        return record

    async def _check_name(self, caller: Caller, name: str, id_: str) -> VoiceRecord | None:
        """Return the caller's record of this voice, if any. Raises AlreadyExists if names or recordings conflict."""
        if name in self._voices.model.voices:
            raise AlreadyExists(f"{name!r} is a voice of the model; choose another name", field="header.name")
        records = await self._store.owned(caller.owner)
        for record in records:
            if record.id == id_ and record.name != name:
                raise AlreadyExists(f"this recording is registered as {record.name!r}; use that name", field="audio")
            if record.id != id_ and record.name == name:
                raise AlreadyExists(
                    f"you have another voice named {name!r}; choose another name or delete it", field="header.name"
                )
        if len(records) >= self._limits.voices and all(record.id != id_ for record in records):
            raise QuotaExceeded(
                f"you have {len(records)} voices, which is the limit; delete one first",
                retry_after=None,
                subject=caller.owner,
            )
        return next((record for record in records if record.id == id_), None)

    async def _receive(self, parts: AsyncIterator[bytes]) -> bytes:
        audio = bytearray()
        limits, now = self._limits, asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(limits.seconds), asyncio.timeout(limits.silence_seconds) as silence:
                async for part in parts:
                    silence.reschedule(now() + limits.silence_seconds)
                    if len(audio) + len(part) > self._limits.bytes:
                        raise InvalidInput(
                            f"the recording has more than {self._limits.bytes} bytes; send 3 to 30 seconds",
                            field="audio",
                        )
                    audio += part
        except TimeoutError as error:
            raise TimedOut(
                f"the upload took longer than {limits.seconds:g} s, or no part of it arrived for"
                f" {limits.silence_seconds:g} s; send it again"
            ) from error
        if not audio:
            raise InvalidInput("the recording is missing; send a WAV, FLAC, MP3 or Ogg file", field="audio")
        return bytes(audio)

    def _audit(self, operation: str, caller: Caller, record: VoiceRecord, **more: object) -> None:
        audit.info(operation, key=caller.name, owner=caller.owner, voice=record.id, name=record.name, **more)
