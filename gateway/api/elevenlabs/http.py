"""ElevenLabs' HTTP routes: speech, whole, streamed and with times of characters."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import Field

from gateway.api.common.errors import ELEVENLABS_ERRORS
from gateway.api.common.fields import named_as
from gateway.api.common.json_body import JsonFields, JsonRoute
from gateway.api.common.response import SpeechResponse
from gateway.api.elevenlabs.alignment import TextAlignment, aligned_audio
from gateway.api.elevenlabs.request import DEFAULT_FORMAT, FIELDS, VoiceSettings, to_options
from gateway.api.openai.models import Models
from gateway.session.context import GatewayContext
from gateway.session.options import SpeechOptions, check_text
from gateway.session.output import Events

OutputFormat = Annotated[
    str,
    Query(
        max_length=64,
        description="mp3_RATE, pcm_RATE, wav_RATE, opus_RATE, ulaw_8000 or alaw_8000; a bit rate after it is accepted "
        "and not used.",
    ),
]


class SpeechRequest(JsonFields):
    """Fields that have no equivalent are ignored: `previous_text` and `next_text`, because the voice's prompt is the
    only context of an utterance; the settings of ElevenLabs' voices except `speed`; its pronunciation dictionaries,
    which only ElevenLabs can read."""

    text: str
    model_id: str = Field(default="", max_length=256)
    language_code: str = Field(default="", max_length=64, description="Such as en or en-US: how numbers are read.")
    voice_settings: VoiceSettings = VoiceSettings()
    seed: int | None = Field(default=None, ge=0, lt=2**64, description="The same seed gives the same speech.")


def router(context: GatewayContext, models: Models) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(
        prefix="/v1/text-to-speech", route_class=JsonRoute, tags=["ElevenLabs"], responses=ELEVENLABS_ERRORS
    )

    async def options_of(
        voice_id: str, request: SpeechRequest, output_format: str, *, word_times: bool = False
    ) -> SpeechOptions:
        with named_as(FIELDS):
            check_text(request.text, context.settings.max_text_chars)
            return await to_options(
                context,
                models,
                voice_id=voice_id,
                model_id=request.model_id,
                output_format=output_format,
                language_code=request.language_code,
                settings=request.voice_settings,
                seed=request.seed,
                word_times=word_times,
            )

    @routes.post("/{voice_id}", response_class=Response, responses=_AUDIO)
    async def convert(voice_id: str, request: SpeechRequest, output_format: OutputFormat = DEFAULT_FORMAT) -> Response:
        """Speak `text`; the answer is sent as a whole."""
        options = await options_of(voice_id, request, output_format)
        return SpeechResponse(context, options, request.text, FIELDS, stream=False)

    @routes.post("/{voice_id}/stream", response_class=Response, responses=_AUDIO)
    async def stream(voice_id: str, request: SpeechRequest, output_format: OutputFormat = DEFAULT_FORMAT) -> Response:
        """Speak `text`; the audio is streamed while it is made."""
        options = await options_of(voice_id, request, output_format)
        return SpeechResponse(context, options, request.text, FIELDS)

    @routes.post("/{voice_id}/stream/with-timestamps", response_class=Response, responses=_LINES)
    async def stream_with_timestamps(
        voice_id: str, request: SpeechRequest, output_format: OutputFormat = DEFAULT_FORMAT
    ) -> Response:
        """Speak `text`; each line of the answer is a JSON object with audio and the times of characters."""
        options = await options_of(voice_id, request, output_format, word_times=True)
        frame = partial(_lines, text=request.text)
        return SpeechResponse(context, options, request.text, FIELDS, media_type="application/json", frame=frame)

    return routes


async def _lines(session: Events, *, text: str) -> AsyncGenerator[bytes]:
    """Yield a session as lines of JSON. Times count from the start of the audio."""
    alignment = TextAlignment(relative=False)
    alignment.add(text)
    async for audio, characters in aligned_audio(session, alignment):
        if audio or characters is not None:
            times = None if characters is None else characters.for_http()
            line = {
                "audio_base64": base64.b64encode(audio).decode(),
                "alignment": times,
                "normalized_alignment": times,
            }
            yield json.dumps(line).encode() + b"\n"


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_AUDIO: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The audio in `output_format`.",
        "content": {f"audio/{kind}": _BINARY for kind in ("mpeg", "pcm", "wav", "ogg", "basic", "x-alaw-basic")},
    }
}
_LINES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One JSON object per line: `audio_base64`, `alignment`, `normalized_alignment`.",
        "content": {"application/json": {"schema": {"type": "string"}}},
    }
}
