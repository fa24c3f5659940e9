"""Where registered voices are kept. Gateways that share a store see each other's changes at once."""

from __future__ import annotations

from typing import Protocol

from gateway.voices.record import VoiceRecord, is_id


class VoiceStore(Protocol):
    """Every method raises Unavailable when the store cannot be reached or used.

    Beside a record lie its recording and, per model, the content extracted from it (a serialised VoiceContent). All of
    them come and go together.
    """

    async def add(self, record: VoiceRecord, audio: bytes) -> bool:
        """Keeps a voice; False, and no change, when this owner has the id already."""

    async def get(self, owner: str, id_: str) -> VoiceRecord | None:
        """The owner's voice of this id."""

    async def owned(self, owner: str) -> list[VoiceRecord]:
        """The owner's voices, the oldest first."""

    async def audio(self, owner: str, id_: str) -> bytes | None:
        """The recording, as it was sent."""

    async def content(self, owner: str, id_: str, model: str) -> bytes | None:
        """What a model made of it, when that was kept."""

    async def keep_content(self, owner: str, id_: str, model: str, content: bytes) -> None:
        """Keeps that; nothing happens when the voice is gone."""

    async def delete(self, owner: str, id_: str) -> bool:
        """Removes everything of a voice; False when there was none."""

    async def close(self) -> None:
        """Releases connections."""


async def find(store: VoiceStore, owner: str, name_or_id: str) -> VoiceRecord | None:
    """An owner's voice by id or name. Two gateways may have registered one name at the same moment: the newer wins."""
    if is_id(name_or_id):
        return await store.get(owner, name_or_id)
    named = [record for record in await store.owned(owner) if record.name == name_or_id]
    return named[-1] if named else None
