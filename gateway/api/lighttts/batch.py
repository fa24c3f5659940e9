"""Further routes of LightTTS and similar servers: styles, statistics per worker, batches of texts."""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, StringConstraints

from gateway.api.common import provenance
from gateway.api.common.audio_upload import InlineAudio, decode_audio
from gateway.api.common.errors import MESSAGE_ERRORS
from gateway.api.common.fields import named_as
from gateway.api.common.json_body import JsonFields, JsonRoute
from gateway.api.common.options import speech_options
from gateway.api.common.response import audio_bytes, while_connected
from gateway.api.lighttts.http import DEFAULT_STYLE, SAMPLE_RATE, pcm, style_of
from gateway.cache.synthesis import speech
from gateway.downstream import list_styles
from gateway.request_stats import ConcurrentStats
from gateway.session.context import GatewayContext
from gateway.session.options import MAX_SPEED, MIN_SPEED, SpeechOptions, check_text
from lighttts.v1 import audio_pb2, tts_pb2
from services.common.errors import InvalidInput, LightTtsError

MAX_BATCH_TEXTS = 64
BATCH_AT_ONCE = 4
"""Most texts of one batch that are spoken at the same time."""
FIELDS = {
    "audio": "prompt_wav",
    "transcript": "prompt_text",
    "voice_name": "voice",
    "style": "tts_model_name",
    "language": "language",
}


class BatchRequest(JsonFields):
    """Several texts in one voice: one of the server's voices, or that of a recording."""

    texts: list[str] = Field(min_length=1, max_length=MAX_BATCH_TEXTS)
    voice: Annotated[str, StringConstraints(max_length=256)] = ""
    prompt_wav: InlineAudio | None = None
    prompt_text: str = ""
    tts_model_name: str = DEFAULT_STYLE
    speed: float = Field(default=1.0, ge=MIN_SPEED, le=MAX_SPEED)
    language: str = Field(default="", max_length=64, description="BCP-47, such as en-US: how numbers are read.")


class BatchItem(BaseModel):
    """The speech of one text, or the error."""

    audio: str | None = Field(default=None, description="base64 of headerless s16le mono PCM.")
    seconds: float | None = None
    error: str | None = None


class BatchAnswer(BaseModel):
    sample_rate: int
    results: list[BatchItem] = Field(description="In the order of the texts.")


class StyleList(BaseModel):
    tts_models: list[str] = Field(description="The values of `tts_model_name`; `default` means the first.")


def router(context: GatewayContext) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(route_class=JsonRoute, tags=["LightTTS"], responses=MESSAGE_ERRORS)

    @routes.get("/query_tts_model")
    @routes.post("/query_tts_model")
    async def query_tts_model() -> StyleList:
        """List the styles."""
        return StyleList(tts_models=list(await list_styles(context.llm)) or [DEFAULT_STYLE])

    @routes.get("/concurrent_stats")
    async def concurrent_stats() -> ConcurrentStats:
        """Return statistics of the requests of all APIs since this gateway started, and of each decode worker."""
        return context.request_stats.snapshot()

    @routes.post("/synthesize_batch")
    async def synthesize_batch(batch: BatchRequest, request: Request, response: Response) -> BatchAnswer:
        """Speak several texts; one that fails does not affect the others. The batch has offline priority."""
        with named_as(FIELDS):
            options = await _options(context, batch)
        places = asyncio.Semaphore(BATCH_AT_ONCE)

        async def one(text: str) -> BatchItem:
            async with places:
                return await _speak(context, options, text)

        async def all_of_them() -> list[BatchItem]:
            async with asyncio.TaskGroup() as group:
                speaking = [group.create_task(one(text)) for text in batch.texts]
            return [task.result() for task in speaking]

        results = await while_connected(request.receive, all_of_them())
        response.headers.update(provenance.headers(context))
        return BatchAnswer(sample_rate=SAMPLE_RATE, results=results or [])

    return routes


async def _options(context: GatewayContext, batch: BatchRequest) -> SpeechOptions:
    characters = sum(map(len, batch.texts))
    if characters > context.settings.max_text_chars:
        raise InvalidInput(
            f"the texts have {characters} characters together; {context.settings.max_text_chars} are allowed: "
            "send them in several requests",
            field="texts",
        )
    config = tts_pb2.SynthesisConfig(
        style=style_of(batch.tts_model_name),
        audio=pcm(SAMPLE_RATE),
        speed=batch.speed,
        language=batch.language,
        priority=audio_pb2.Urgency.PRIORITY_OFFLINE,
    )
    if batch.prompt_wav is not None:
        config.prompt.audio = await decode_audio(batch.prompt_wav)
        config.prompt.transcript = batch.prompt_text
    else:
        config.voice_name = batch.voice
    return speech_options(context, config)


async def _speak(context: GatewayContext, options: SpeechOptions, text: str) -> BatchItem:
    try:
        check_text(text, context.settings.max_text_chars)
        async with speech(context, options, text) as session:
            samples = b"".join([part async for part in audio_bytes(session)])
    except LightTtsError as error:
        return BatchItem(error=error.message)
    return BatchItem(audio=base64.b64encode(samples).decode(), seconds=len(samples) / 2 / SAMPLE_RATE)
