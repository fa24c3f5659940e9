"""Stores of registered voices. Gateways that share a store see each other's changes at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import structlog
from google.protobuf.message import DecodeError

from gateway.voices.record import VoiceRecord, is_id, normal_name
from lighttts.v1 import voice_pb2

log = structlog.get_logger(__name__)


class VoiceStore(Protocol):
    """Every method raises Unavailable when the store cannot be reached or used.

    A record is stored with its recording and, per model, the content extracted from it (a serialized VoiceContent). All
    of them are added and deleted together.
    """

    async def add(
        self,
        record: VoiceRecord,
        audio: bytes,
        contents: Mapping[str, bytes] | None = None,
        *,
        unique_name: bool = False,
    ) -> bool:
        """Store a voice with its contents by name. Return False, without a change, if this owner already has the id,
        or with `unique_name` the name; of gateways that add one name at the same time, one succeeds."""

    async def get(self, owner: str, id_: str) -> VoiceRecord | None:
        """Return the owner's voice with this id."""

    async def owned(self, owner: str) -> list[VoiceRecord]:
        """Return the owner's voices, oldest first."""

    async def audio(self, owner: str, id_: str) -> bytes | None:
        """Return the recording as it was uploaded."""

    async def content(self, owner: str, id_: str, model: str) -> bytes | None:
        """Return the stored content that a model extracted from the recording."""

    async def keep_content(self, owner: str, id_: str, model: str, content: bytes) -> None:
        """Store that content; does nothing if the voice is deleted."""

    async def replace(self, record: VoiceRecord) -> bool:
        """Replace the record that is stored under the same owner and id. Return False if there is none."""

    async def delete(self, owner: str, id_: str) -> bool:
        """Delete a voice with its recording and contents. Return False if there was none."""

    async def close(self) -> None:
        """Close the connections."""


async def find(store: VoiceStore, owner: str, name_or_id: str) -> VoiceRecord | None:
    """Find an owner's voice by id or name. Earlier versions could store a name twice; then the newer voice is found."""
    if is_id(name_or_id):
        return await store.get(owner, name_or_id)
    name = normal_name(name_or_id)
    named = [record for record in await store.owned(owner) if normal_name(record.name) == name]
    return named[-1] if named else None


async def content(store: VoiceStore, record: VoiceRecord, model: str) -> voice_pb2.VoiceContent | None:
    """Return what a model extracted from a voice's recording; None if that is not stored, or is damaged."""
    stored = await store.content(record.owner, record.id, model)
    if stored is None:
        return None
    try:
        found = voice_pb2.VoiceContent.FromString(stored)
    except DecodeError as error:
        log.warning("the stored content of a voice is damaged", owner=record.owner, voice=record.id, reason=str(error))
        return None
    if found.model != model or not found.voice_hash:
        log.warning("the stored content of a voice is damaged", owner=record.owner, voice=record.id, reason="not whole")
        return None
    return found
