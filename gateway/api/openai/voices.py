"""Management of voices over HTTP, `/v1/audio/voices`, for clients of OpenAI's API and similar ones."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Literal

from fastapi import APIRouter, File, Form, UploadFile
from pydantic import BaseModel, Field

from gateway.api.common.errors import OPENAI_ERRORS, OpenAIError
from gateway.api.common.fields import named_as
from gateway.auth.caller import current_caller
from gateway.session.context import GatewayContext
from gateway.voices.consent import Statement
from gateway.voices.consents import PREFIX as CONSENT_PREFIX
from gateway.voices.record import NewVoice, VoiceRecord
from services.common.errors import InvalidInput, quoted

PART_BYTES = 64 * 1024
FIELDS = {
    "name": "name",
    "transcript": "ref_text",
    "consent": "consent",
    "consent_id": "consent",
    "consent_given_by": "consent_given_by",
    "consent_given_on": "consent_given_on",
    "audio": "audio_sample",
    "description": "description",
    "voice": "voice",
}
_AGREED, _REFUSED = ("true", "1", "yes", "on"), ("", "false", "0", "no", "off")


class VoiceName(BaseModel):
    id: str = Field(description="A value of `voice` in requests; the name is another.")
    name: str


class Voice(VoiceName):
    object: Literal["audio.voice"] = "audio.voice"
    type: Literal["audio_sample"] = "audio_sample"
    created_at: int = Field(default=0, description="Unix time; 0 for the model's own voices.")
    registered: bool = Field(description="Whether the voice is the caller's own and can be deleted.")
    description: str = ""
    warnings: list[str] = Field(default=[], description="Weaknesses of the recording.")


class VoiceList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Voice]
    voices: list[VoiceName] = Field(description="The same voices, in the form that Open WebUI reads.")


class DeletedVoice(BaseModel):
    id: str
    object: Literal["audio.voice.deleted"] = "audio.voice.deleted"
    deleted: bool = True


def router(context: GatewayContext) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1/audio", tags=["OpenAI"], responses=OPENAI_ERRORS)

    @routes.get("/voices")
    async def voices() -> VoiceList:
        """List the model's voices and the caller's own."""
        registered = await context.registry.owned(current_caller())
        data = [Voice(id=name, name=name, registered=False) for name in context.voices.model.voices]
        data += [_registered(record) for record in registered]
        return VoiceList(data=data, voices=[VoiceName(id=voice.id, name=voice.name) for voice in data])

    @routes.post("/voices", responses={409: {"model": OpenAIError, "description": "The name is taken."}})
    async def create_voice(
        name: Annotated[str, Form()],
        consent: Annotated[str, Form(description="true, or the id of a consent: the person recorded has agreed.")],
        audio_sample: Annotated[
            UploadFile | None, File(description="WAV, FLAC, MP3, Ogg ...; 1 to 30 seconds.")
        ] = None,
        ref_text: Annotated[str, Form(description="The recording's words; without them only the timbre is used.")] = "",
        description: Annotated[str, Form()] = "",
        consent_given_by: Annotated[str, Form(description="Name of the person who has agreed.")] = "",
        consent_given_on: Annotated[str, Form(description="Date of the consent: 2026-11-26.")] = "",
        type: Annotated[str, Form(description="Only audio_sample: a voice from a recording.")] = "audio_sample",
    ) -> Voice:
        """Register a voice. Sending the same recording and text again changes nothing."""
        if type != "audio_sample":
            raise InvalidInput("type is audio_sample; voices are made from recordings only", field="type")
        if audio_sample is None:
            raise InvalidInput("audio_sample is missing; send a recording as a file", field="audio_sample")
        agreed, recording = _consent(consent.strip())
        new = NewVoice(
            name=name,
            transcript=ref_text,
            consent=Statement(agreed, consent_given_by, consent_given_on, recording),
            description=description,
        )
        with named_as(FIELDS):
            record, _ = await context.registry.create(current_caller(), new, parts_of(audio_sample))
        return _registered(record)

    @routes.delete("/voices/{voice}")
    async def delete_voice(voice: str) -> DeletedVoice:
        """Delete one of the caller's voices, by id or name, and everything made of it."""
        if voice in context.voices.model.voices:
            raise InvalidInput(f"{voice!r} comes with the model and cannot be deleted", field="voice")
        with named_as(FIELDS):
            record = await context.registry.delete(current_caller(), voice)
        return DeletedVoice(id=record.id)

    return routes


def _consent(text: str) -> tuple[bool, str]:
    """Return whether the text states a consent, and the id of a recorded one. Raises InvalidInput for other words: a
    form has texts only, and a refusal in any language must not count as a consent."""
    if text.startswith(CONSENT_PREFIX):
        return True, text
    if text.lower() not in _AGREED + _REFUSED:
        raise InvalidInput(
            f"consent is {quoted(text)}; send true if the person recorded has agreed, or the id of a recorded consent",
            field="consent",
        )
    return text.lower() in _AGREED, ""


def _registered(record: VoiceRecord) -> Voice:
    return Voice(
        id=record.id,
        name=record.name,
        created_at=int(record.created),
        registered=True,
        description=record.description,
        warnings=list(record.warnings),
    )


async def parts_of(upload: UploadFile) -> AsyncIterator[bytes]:
    """Yield an uploaded file in parts."""
    while part := await upload.read(PART_BYTES):
        yield part
