"""The operations on registered voices, with their limits and audit log."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

from gateway.auth.caller import Caller
from gateway.auth.quota import Quotas
from gateway.voices.audit import Audit, audit
from gateway.voices.consent import Policy
from gateway.voices.consents import ConsentRegistry
from gateway.voices.deletion import VoiceDeletion
from gateway.voices.record import NewVoice, VoiceRecord, normal_name, voice_id
from gateway.voices.resolver import VoiceResolver
from gateway.voices.store import VoiceStore, find
from gateway.voices.store import content as stored_content
from gateway.voices.uploads import Uploads
from services.common.errors import AlreadyExists, NotFound, QuotaExceeded, Unavailable, quoted

CONSENT = "recorded consent"
"""Under this name the recording of a consent is kept among the contents of a voice; the models' names are hashes."""
TIMBRE_ONLY = "the voice has no transcript: only the timbre of the recording is used, as for speech in another language"


class VoiceRegistry:
    """Registered voices. Only its owner can see and use a voice."""

    def __init__(
        self,
        store: VoiceStore,
        voices: VoiceResolver,
        quotas: Quotas,
        uploads: Uploads,
        voice_deletion: VoiceDeletion,
        consents: ConsentRegistry,
        audit_: Audit,
        policy: Policy = "none",
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._voices = voices
        self._quotas = quotas
        self.consents = consents
        self._voice_deletion = voice_deletion
        self._audit = audit_
        self._policy = policy
        self._now = now
        self._uploads = uploads

    async def create(self, caller: Caller, new: NewVoice, parts: AsyncIterator[bytes]) -> tuple[VoiceRecord, bool]:
        """Register a voice; return it, and whether the caller had it already. `parts`: the audio file in pieces.

        Raises InvalidInput for an unusable recording, AlreadyExists for a name of another voice, QuotaExceeded,
        Overloaded, TimedOut, Unavailable.
        """
        with self._audit.refusals("voice creation refused", caller, new.name):
            return await self._create(caller, new, parts)

    async def _create(self, caller: Caller, new: NewVoice, parts: AsyncIterator[bytes]) -> tuple[VoiceRecord, bool]:
        new = replace(new, name=normal_name(new.name))
        new.check(self._policy, self._now())
        given = new.consent.recording
        # Before the upload: a consent that does not exist makes it useless.
        consent = await self.consents.recording(caller, given, "header.consent_id") if given else None
        transcript = new.transcript.strip() and new.transcript
        await self._quotas.spend(caller)
        with self._uploads.hold(caller):
            audio = await self._uploads.receive(parts, "audio")
            id_ = await asyncio.to_thread(voice_id, audio, transcript)
            existing = await self._check_name(caller, new.name, id_)
            if existing is not None:
                return existing, True
            content = await self._voices.extract(audio, transcript)
            record = VoiceRecord(
                id=id_,
                owner=caller.owner,
                name=new.name,
                description=new.description,
                languages=new.languages,
                transcript=transcript,
                seconds=content.seconds,
                warnings=(*content.warnings, *(() if transcript else (TIMBRE_ONLY,))),
                created=self._now(),
                consent=given,
            )
            about = _about(record) | {"policy": self._policy} | new.consent.facts()
            contents = {content.model: content.SerializeToString()}
            if consent is not None:
                about["consent_sha256"] = await asyncio.to_thread(lambda: hashlib.sha256(consent).hexdigest())
                contents[CONSENT] = consent
            async with self._uploads.turn(caller):
                # Again: other uploads of this owner may have ended during the extraction.
                existing = await self._check_name(caller, new.name, id_)
                if existing is not None:
                    return existing, True
                async with self._audit.operation("voice created", caller, about, bytes=len(audio)):
                    if await self._store.add(record, audio, contents, unique_name=True):
                        return record, False
                    return await self._added_elsewhere(caller, record), True

    async def _added_elsewhere(self, caller: Caller, record: VoiceRecord) -> VoiceRecord:
        """Return what is stored under the id of `record`, which could not be added. Raises AlreadyExists if another
        voice has its name."""
        stored = await self._check_name(caller, record.name, record.id)
        if stored is None:
            raise Unavailable(
                "this recording is stored already, but what is stored with it cannot be read; the operator has to"
                " repair or remove it, see the gateway's log"
            )
        return stored

    async def owned(self, caller: Caller) -> list[VoiceRecord]:
        """Return the caller's voices, oldest first."""
        records = await self._store.owned(caller.owner)
        audit.info("voices listed", key=caller.name, owner=caller.owner, count=len(records))
        return records

    async def get(self, caller: Caller, name_or_id: str) -> VoiceRecord:
        """Return one of the caller's voices. Raises NotFound."""
        record = await find(self._store, caller.owner, name_or_id)
        if record is None:
            raise NotFound(f"you have no voice {quoted(name_or_id)}; list your voices for their names", field="voice")
        audit.info("voice read", key=caller.name, owner=caller.owner, **_about(record))
        return record

    async def delete(self, caller: Caller, name_or_id: str) -> VoiceRecord:
        """Delete a voice permanently. Raises NotFound, and Unavailable if nothing was deleted."""
        with self._audit.refusals("voice deletion refused", caller, name_or_id):
            return await self._delete(caller, name_or_id)

    async def _delete(self, caller: Caller, name_or_id: str) -> VoiceRecord:
        record = await find(self._store, caller.owner, name_or_id)
        if record is None:
            raise NotFound(f"you have no voice {quoted(name_or_id)}; list your voices for their names", field="voice")
        content = await stored_content(self._store, record, self._voices.model.model)
        if content is not None:  # without content this model has never used the voice
            # Before the voice: after an error, the caller's next attempt still finds it, and evicts again.
            await self._voice_deletion.evict_results(content.voice_hash)
            self._voice_deletion.expect(content.voice_hash)
        async with self._audit.operation("voice deleted", caller, _about(record)):
            if not await self._store.delete(caller.owner, record.id):
                raise NotFound(f"the voice {record.name!r} has just been deleted", field="voice")
            if content is not None:
                await self._voice_deletion.evict(content.voice_hash)
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
        if len(records) >= self._uploads.limits.voices and all(record.id != id_ for record in records):
            raise QuotaExceeded(
                f"you have {len(records)} voices, which is the limit; delete one first",
                retry_after=None,
                subject=caller.owner,
            )
        return next((record for record in records if record.id == id_), None)


def _about(record: VoiceRecord) -> dict[str, Any]:
    return {"voice": record.id, "name": record.name}
