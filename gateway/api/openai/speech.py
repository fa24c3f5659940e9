"""OpenAI's speech API (docs/spec/wire.md, section 4): `/v1/audio/speech` and `/v1/models`."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, Field

from gateway.api.common.audio_upload import InlineAudio, decode_audio
from gateway.api.common.errors import OPENAI_ERRORS
from gateway.api.common.fields import named_as
from gateway.api.common.json_body import JsonRoute
from gateway.api.common.response import SpeechResponse
from gateway.downstream import list_styles
from gateway.session.context import GatewayContext
from gateway.session.options import SpeechOptions, check_text
from gateway.session.output import Events
from lighttts.v1 import audio_pb2, tts_pb2
from services.common.errors import NotFound, quoted

MAX_INPUT_CHARS = 4096
PCM_RATE = 24000
"""Sample rate, in Hz, that clients of this API expect of `pcm`."""
OPENAI_MODELS = frozenset({"tts-1", "tts-1-hd", "gpt-4o-mini-tts"})
"""Names that are built into clients; each means the default model."""
OPENAI_VOICES = frozenset(
    ["alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse"]
)
"""Names that are built into clients; each means the default voice, unless a voice has that name."""
FIELDS = {
    "text": "input",
    "audio": "ref_audio",
    "transcript": "ref_text",
    "voice_name": "voice",
    "instruct_text": "instructions",
    "encoding": "response_format",
    "speed": "speed",
    "style": "model",
    "model": "model",
}
_ENCODINGS = {
    "mp3": audio_pb2.AUDIO_ENCODING_MP3,
    "opus": audio_pb2.AUDIO_ENCODING_OGG_OPUS,
    "aac": audio_pb2.AUDIO_ENCODING_AAC,
    "flac": audio_pb2.AUDIO_ENCODING_FLAC,
    "wav": audio_pb2.AUDIO_ENCODING_WAV,
    "pcm": audio_pb2.AUDIO_ENCODING_PCM_S16LE,
}


class VoiceId(BaseModel):
    id: str = Field(max_length=256)


class SpeechRequest(BaseModel):
    """What to speak and how. `ref_audio`, `ref_text` and `seed` are our extensions; unknown fields are ignored."""

    input: str = Field(min_length=1, max_length=MAX_INPUT_CHARS)
    model: str = Field(default="", max_length=256, description="One of /v1/models; empty means the default.")
    voice: Annotated[str, Field(max_length=256)] | VoiceId = Field(default="", description="A name or an id.")
    instructions: str = Field(default="", description="How to speak, if the model supports it: 'with a sad voice'.")
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] = "mp3"
    speed: float = Field(default=1.0, ge=0.25, le=4.0)
    stream_format: Literal["audio", "sse"] = "audio"
    ref_audio: InlineAudio | None = None
    ref_text: str = Field(default="", description="Transcript of `ref_audio`; without it, only the timbre is used.")
    seed: int | None = Field(default=None, ge=0, lt=2**64, description="The same seed gives the same speech.")


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int = Field(default=0, description="Always 0: checkpoints have no date.")
    owned_by: str = "light-tts"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


def router(context: GatewayContext) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1", route_class=JsonRoute, tags=["OpenAI"], responses=OPENAI_ERRORS)

    @routes.post("/audio/speech", response_class=Response, responses=_ANSWER)
    async def speech(request: SpeechRequest) -> Response:
        """Speak `input`; the audio is streamed while it is made."""
        with named_as(FIELDS):
            check_text(request.input, MAX_INPUT_CHARS)
            options = SpeechOptions.from_config(
                await _to_synthesis_config(context, request), context.settings.max_prompt_bytes
            )
        if request.stream_format == "sse":
            return SpeechResponse(
                context, options, request.input, FIELDS, media_type="text/event-stream", frame=_events
            )
        return SpeechResponse(context, options, request.input, FIELDS)

    @routes.get("/models")
    async def models() -> ModelList:
        """List the values of `model`: the checkpoint, which is the default, and its further styles."""
        return ModelList(data=[Model(id=name) for name in await _model_names(context)])

    @routes.get("/models/{model}")
    async def one_model(model: str) -> Model:
        """Return one model."""
        if model not in await _model_names(context):
            raise _no_such_model(model)
        return Model(id=model)

    return routes


async def _model_names(context: GatewayContext) -> tuple[str, ...]:
    return (context.voices.model.name, *(await list_styles(context.llm))[1:])


def _no_such_model(name: str) -> NotFound:
    return NotFound(f"there is no model {quoted(name)}; GET /v1/models lists the models", field="model")


async def _to_synthesis_config(context: GatewayContext, request: SpeechRequest) -> tts_pb2.SynthesisConfig:
    config = tts_pb2.SynthesisConfig(speed=request.speed, style=await _style(context, request.model))
    config.audio.encoding = _ENCODINGS[request.response_format]
    if request.response_format == "pcm":
        config.audio.sample_rate = PCM_RATE
    if request.seed is not None:
        config.seed = request.seed
    if request.ref_audio is None:
        config.voice_name = await _voice(context, request.voice)
    else:
        config.prompt.audio = await decode_audio(request.ref_audio)
        config.prompt.transcript = request.ref_text
        if not request.ref_text.strip():
            config.mode = tts_pb2.SPEECH_MODE_CROSS_LINGUAL
    if request.instructions.strip():
        config.mode = tts_pb2.SPEECH_MODE_INSTRUCT
        config.instruct_text = request.instructions
    return config


async def _style(context: GatewayContext, model: str) -> str:
    if not model or model in OPENAI_MODELS or model == context.voices.model.name:
        return ""
    if model not in await _model_names(context):
        raise _no_such_model(model)
    return model


async def _voice(context: GatewayContext, voice: str | VoiceId) -> str:
    name = voice.id if isinstance(voice, VoiceId) else voice
    return "" if name in OPENAI_VOICES and not await context.voices.exists(name) else name


async def _events(session: Events) -> AsyncGenerator[bytes]:
    """Yield a session as server-sent events."""
    async for event in session:
        match event:
            case audio_pb2.AudioChunk() if event.pcm:
                audio = base64.b64encode(event.pcm).decode()
                yield _event({"type": "speech.audio.delta", "audio": audio})
            case tts_pb2.Finished():
                tokens = (event.text_tokens, event.speech_tokens)
                usage = {"input_tokens": tokens[0], "output_tokens": tokens[1], "total_tokens": sum(tokens)}
                yield _event({"type": "speech.audio.done", "usage": usage})


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The audio in `response_format`, or events that carry it in base64 (`stream_format` sse).",
        "content": {
            **{f"audio/{kind}": _BINARY for kind in ("mpeg", "ogg", "aac", "flac", "wav", "pcm")},
            "text/event-stream": {"schema": {"type": "string"}},
        },
    }
}
