"""What a caller may do with registered voices, and the record of who did it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

import structlog

from gateway.auth.caller import Caller
from gateway.auth.quota import Quotas
from gateway.voices.deletion import VoiceDeletion
from gateway.voices.record import NewVoice, VoiceRecord, voice_id
from gateway.voices.resolver import VoiceResolver
from gateway.voices.store import VoiceStore, find
from lighttts.v1 import voice_pb2
from services.common.errors import AlreadyExists, InvalidInput, NotFound, Overloaded, QuotaExceeded, TimedOut

audit = structlog.get_logger("gateway.audit")
"""One line per act: who (key and owner), what, which voice."""


@dataclass(frozen=True)
class UploadLimits:
    bytes: int
    """Of one recording."""
    seconds: float
    """For the whole of it to come."""
    at_once: int
    """Over all callers: each is held in memory until it is complete."""
    voices: int
    """Per owner."""


class VoiceRegistry:
    """Registered voices. To everybody but its owner a voice does not exist."""

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
        self._uploads = 0

    async def create(self, caller: Caller, new: NewVoice, parts: AsyncIterator[bytes]) -> tuple[VoiceRecord, bool]:
        """Registers a voice; also whether the caller had it already. `parts`: the audio file, piece by piece.

        Raises InvalidInput for a recording that cannot be spoken with, AlreadyExists for a name that means another
        voice, QuotaExceeded, Overloaded, TimedOut, Unavailable.
        """
        new.check()
        await self._quotas.spend(caller)
        with self._upload():
            audio = await self._receive(parts)
            id_ = await asyncio.to_thread(voice_id, audio, new.transcript)
            known = await self._check_name(caller, new.name, id_)
            if known is not None:
                return known, True
            content = await self._voices.examine(audio, new.transcript)
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
        self._note("voice created", caller, record, bytes=len(audio), consent=True)
        return record, not added

    async def owned(self, caller: Caller) -> list[VoiceRecord]:
        """The caller's voices, the oldest first."""
        records = await self._store.owned(caller.owner)
        audit.info("voices listed", key=caller.name, owner=caller.owner, count=len(records))
        return records

    async def get(self, caller: Caller, name_or_id: str) -> VoiceRecord:
        """Raises NotFound."""
        record = await find(self._store, caller.owner, name_or_id)
        if record is None:
            raise NotFound(f"you have no voice {name_or_id!r}; ListVoices names those you have", field="voice")
        self._note("voice read", caller, record)
        return record

    async def delete(self, caller: Caller, name_or_id: str) -> VoiceRecord:
        """Removes a voice for good. Raises NotFound."""
        record = await find(self._store, caller.owner, name_or_id)
        if record is None:
            raise NotFound(f"you have no voice {name_or_id!r}; ListVoices names those you have", field="voice")
        content = await self._store.content(caller.owner, record.id, self._voices.model.model)
        if not await self._store.delete(caller.owner, record.id):
            raise NotFound(f"the voice {record.name!r} has just been deleted", field="voice")
        if content is not None:  # without it this model has never spoken with it
            await self._voice_deletion.evict(voice_pb2.VoiceContent.FromString(content).voice_hash)
        self._note("voice deleted", caller, record)
        return record

    async def _check_name(self, caller: Caller, name: str, id_: str) -> VoiceRecord | None:
        """The caller's record of this very voice, if there is one. Raises AlreadyExists when names and ids disagree."""
        if name in self._voices.model.voices:
            raise AlreadyExists(f"{name!r} is a voice of the model; choose another name", field="header.name")
        records = await self._store.owned(caller.owner)
        for record in records:
            if record.id == id_ and record.name != name:
                raise AlreadyExists(f"you have registered this recording as {record.name!r}; use that", field="audio")
            if record.id != id_ and record.name == name:
                raise AlreadyExists(
                    f"you have another voice named {name!r}; choose another name or delete it", field="header.name"
                )
        if len(records) >= self._limits.voices and all(record.id != id_ for record in records):
            raise QuotaExceeded(
                f"you have {len(records)} voices, as many as are allowed; delete one first",
                retry_after=None,
                subject=caller.owner,
            )
        return next((record for record in records if record.id == id_), None)

    async def _receive(self, parts: AsyncIterator[bytes]) -> bytes:
        audio = bytearray()
        try:
            async with asyncio.timeout(self._limits.seconds):
                async for part in parts:
                    if len(audio) + len(part) > self._limits.bytes:
                        raise InvalidInput(
                            f"the recording has more than {self._limits.bytes} bytes; send 3 to 30 seconds",
                            field="audio",
                        )
                    audio += part
        except TimeoutError as error:
            raise TimedOut(f"the upload took longer than {self._limits.seconds:g} s; send it again") from error
        if not audio:
            raise InvalidInput("the recording is missing; send a WAV, FLAC, MP3 or Ogg file", field="audio")
        return bytes(audio)

    @contextlib.contextmanager
    def _upload(self) -> Iterator[None]:
        if self._uploads >= self._limits.at_once:
            raise Overloaded(f"{self._uploads} voices are being uploaded; try again shortly")
        self._uploads += 1
        try:
            yield
        finally:
            self._uploads -= 1

    def _note(self, act: str, caller: Caller, record: VoiceRecord, **more: object) -> None:
        audit.info(act, key=caller.name, owner=caller.owner, voice=record.id, name=record.name, **more)
