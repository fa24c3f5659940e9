"""Recorded consents: a person says that their voice may be used. Optional; kept until deleted, and with each voice made
under them.

A consent is stored like a voice, in a store of its own: a record, which is its label, and the recording.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

from gateway.auth.caller import Caller
from gateway.auth.quota import Quotas
from gateway.voices.audit import Audit
from gateway.voices.record import VoiceRecord, check_languages, check_name, is_id, voice_id
from gateway.voices.store import VoiceStore
from gateway.voices.uploads import Uploads
from services.common.errors import InvalidInput, NotFound, QuotaExceeded, quoted
from services.common.voices.sound_file import is_recording

PREFIX = "cons_"
"""Begins the ids of consents."""
CHECKED_SECONDS = 60.0
"""Of a recording are decoded, to see that it is one."""


class ConsentRegistry:
    """Consents by owner. Only its owner can see and use a consent."""

    def __init__(
        self, store: VoiceStore, quotas: Quotas, uploads: Uploads, audit: Audit, now: Callable[[], float] = time.time
    ) -> None:
        self._audit = audit
        self._store = store
        self._quotas = quotas
        self._uploads = uploads
        self._now = now

    async def create(self, caller: Caller, name: str, language: str, parts: AsyncIterator[bytes]) -> VoiceRecord:
        """Store a recorded consent; return its record. The same recording and label again change nothing.

        Raises InvalidInput, QuotaExceeded, Overloaded, TimedOut, Unavailable.
        """
        check_name(name)
        check_languages((language,))
        await self._quotas.spend(caller)
        with self._uploads.hold(caller):
            recording = await self._uploads.receive(parts, "recording")
            if not await asyncio.to_thread(is_recording, recording, CHECKED_SECONDS):
                raise InvalidInput(
                    "the recording cannot be decoded; send a whole WAV, FLAC, MP3, Ogg, M4A or WebM file",
                    field="recording",
                )
            stored = voice_id(recording, f"{language} {name}")
            record = VoiceRecord(
                id=stored,
                owner=caller.owner,
                name=name,
                description="",
                languages=(language,),
                transcript="",
                seconds=0.0,
                warnings=(),
                created=self._now(),
            )
            about = _about(record)
            about["consent_sha256"] = await asyncio.to_thread(lambda: hashlib.sha256(recording).hexdigest())
            async with self._uploads.turn(caller):
                known = await self._store.owned(caller.owner)
                if len(known) >= self._uploads.limits.voices and all(other.id != stored for other in known):
                    raise QuotaExceeded(
                        f"you have {len(known)} consents, which is the limit; delete one first",
                        retry_after=None,
                        subject=caller.owner,
                    )
                async with self._audit.operation("consent created", caller, about, bytes=len(recording)):
                    if not await self._store.add(record, recording):
                        record = await self._store.get(caller.owner, stored) or record
        return record

    async def owned(self, caller: Caller) -> list[VoiceRecord]:
        """Return the caller's consents, oldest first."""
        return await self._store.owned(caller.owner)

    async def get(self, caller: Caller, consent: str, field: str = "consent") -> VoiceRecord:
        """Return one of the caller's consents by its public id. Raises NotFound."""
        stored = _stored(consent)
        record = None if stored is None else await self._store.get(caller.owner, stored)
        if record is None:
            raise NotFound(
                f"you have no consent {quoted(consent)}; POST /v1/audio/voice_consents makes one", field=field
            )
        return record

    async def recording(self, caller: Caller, consent: str, field: str) -> bytes:
        """Return the recording of a consent. Raises NotFound, which names `field`."""
        record = await self.get(caller, consent, field)
        recording = await self._store.audio(caller.owner, record.id)
        if recording is None:
            raise _just_deleted(consent, field)
        return recording

    async def rename(self, caller: Caller, consent: str, name: str) -> VoiceRecord:
        """Change the label of a consent; return its record. Raises InvalidInput, NotFound."""
        check_name(name)
        record = replace(await self.get(caller, consent), name=name)
        async with self._audit.operation("consent renamed", caller, _about(record)):
            if not await self._store.replace(record):
                raise _just_deleted(consent)
        return record

    async def delete(self, caller: Caller, consent: str) -> None:
        """Delete a consent; voices made under it keep its recording. Raises NotFound."""
        record = await self.get(caller, consent)
        async with self._audit.operation("consent deleted", caller, _about(record)):
            await self._store.delete(caller.owner, record.id)


def public_id(record: VoiceRecord) -> str:
    """Return the id that callers use."""
    return PREFIX + record.id[1:]


def _about(record: VoiceRecord) -> dict[str, Any]:
    return {"consent": public_id(record), "name": record.name}


def _just_deleted(consent: str, field: str = "consent") -> NotFound:
    return NotFound(f"the consent {quoted(consent)} has just been deleted", field=field)


def _stored(consent: str) -> str | None:
    """Return the id under which a consent is stored; None for a text that is no id."""
    stored = f"v{consent.removeprefix(PREFIX)}"
    return stored if consent.startswith(PREFIX) and is_id(stored) else None
