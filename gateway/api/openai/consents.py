"""Recorded consents over HTTP, `/v1/audio/voice_consents`, as OpenAI's client sends them before it makes a voice."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, File, Form, Query, UploadFile
from pydantic import BaseModel, Field

from gateway.api.common.errors import OPENAI_ERRORS
from gateway.api.common.fields import named_as
from gateway.api.openai.voices import parts_of
from gateway.auth.caller import current_caller
from gateway.session.context import GatewayContext
from gateway.voices.consents import public_id
from gateway.voices.record import VoiceRecord
from services.common.errors import NotFound, quoted

FIELDS = {"name": "name", "languages": "language", "recording": "recording", "consent": "consent"}
MOST_LISTED = 100


class Consent(BaseModel):
    id: str = Field(description="A value of `consent` when a voice is registered.")
    object: Literal["audio.voice_consent"] = "audio.voice_consent"
    created_at: int
    language: str
    name: str


class ConsentList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Consent]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool


class NewLabel(BaseModel):
    name: str = Field(description="The new label.")


class DeletedConsent(BaseModel):
    id: str
    object: Literal["audio.voice_consent"] = "audio.voice_consent"
    deleted: bool = True


def router(context: GatewayContext) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1/audio/voice_consents", tags=["OpenAI"], responses=OPENAI_ERRORS)
    consents = context.registry.consents

    @routes.post("")
    async def create_consent(
        name: Annotated[str, Form(description="A label.")],
        language: Annotated[str, Form(description="Of the recording: en-US.")],
        recording: Annotated[UploadFile, File(description="The person says that their voice may be used.")],
    ) -> Consent:
        """Store a recorded consent. It is kept with each voice that is registered under it."""
        with named_as(FIELDS):
            return _consent(await consents.create(current_caller(), name, language, parts_of(recording)))

    @routes.get("")
    async def list_consents(after: str = "", limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 20) -> ConsentList:
        """List the caller's consents, oldest first, from the one behind `after`."""
        known = [_consent(record) for record in await consents.owned(current_caller())]
        begin = 0 if not after else next((n for n, consent in enumerate(known, 1) if consent.id == after), None)
        if begin is None:  # to begin again would give a client that follows the pages the first one for ever
            raise NotFound(f"after: you have no consent {quoted(after)}; list from the beginning", field="after")
        page = known[begin : begin + limit]
        return ConsentList(
            data=page,
            first_id=page[0].id if page else None,
            last_id=page[-1].id if page else None,
            has_more=len(known) > begin + limit,
        )

    @routes.get("/{consent}")
    async def one_consent(consent: str) -> Consent:
        """Return one consent."""
        with named_as(FIELDS):
            return _consent(await consents.get(current_caller(), consent))

    @routes.post("/{consent}")
    async def rename_consent(consent: str, label: NewLabel) -> Consent:
        """Change the label of a consent."""
        with named_as(FIELDS):
            return _consent(await consents.rename(current_caller(), consent, label.name))

    @routes.delete("/{consent}")
    async def delete_consent(consent: str) -> DeletedConsent:
        """Delete a consent; voices that were registered under it keep its recording."""
        with named_as(FIELDS):
            await consents.delete(current_caller(), consent)
        return DeletedConsent(id=consent)

    return routes


def _consent(record: VoiceRecord) -> Consent:
    return Consent(id=public_id(record), created_at=int(record.created), language=record.languages[0], name=record.name)
