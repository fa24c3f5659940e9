"""OpenAI's speech API (docs/spec/wire.md, section 4): `/v1/audio/speech`."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import Field

from gateway.api.common.audio_upload import InlineAudio, decode_audio
from gateway.api.common.errors import OPENAI_ERRORS
from gateway.api.common.fields import named_as
from gateway.api.common.json_body import JsonFields, JsonRoute
from gateway.api.common.options import speech_options
from gateway.api.common.response import SpeechResponse
from gateway.api.common.word_times import TimedWord, timed_words
from gateway.api.openai.models import Models
from gateway.audio.formats import MAX_RATE, MIN_RATE
from gateway.session.context import GatewayContext
from gateway.session.options import check_text
from gateway.session.output import Events
from lighttts.v1 import audio_pb2, tts_pb2
from services.common.errors import InvalidInput

MAX_INPUT_CHARS = 4096
PCM_RATE = 24000
"""Sample rate, in Hz, that clients of this API expect of `pcm`."""
FIELDS = {
    "text": "input",
    "audio": "ref_audio",
    "transcript": "ref_text",
    "voice_name": "voice",
    "instruct_text": "instructions",
    "encoding": "response_format",
    "sample_rate": "sample_rate",
    "stream": "stream",
    "speed": "speed",
    "language": "language",
    "timestamps": "timestamps",
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
    "ulaw": audio_pb2.AUDIO_ENCODING_MULAW,
    "mulaw": audio_pb2.AUDIO_ENCODING_MULAW,
    "g711_ulaw": audio_pb2.AUDIO_ENCODING_MULAW,
    "alaw": audio_pb2.AUDIO_ENCODING_ALAW,
    "g711_alaw": audio_pb2.AUDIO_ENCODING_ALAW,
}


class VoiceId(JsonFields):
    id: str = Field(max_length=256)


class SpeechRequest(JsonFields):
    """What to speak and how. Fields behind `stream_format` are our extensions."""

    input: str = Field(min_length=1, max_length=MAX_INPUT_CHARS)
    model: str = Field(default="", max_length=256, description="One of /v1/models; empty means the default.")
    voice: Annotated[str, Field(max_length=256)] | VoiceId = Field(default="", description="A name or an id.")
    instructions: str = Field(default="", description="How to speak, if the model supports it: 'with a sad voice'.")
    response_format: Literal[
        "mp3", "opus", "aac", "flac", "wav", "pcm", "ulaw", "alaw", "mulaw", "g711_ulaw", "g711_alaw"
    ] = "mp3"
    speed: float = Field(default=1.0, ge=0.25, le=4.0)
    stream_format: Literal["audio", "sse"] = "audio"
    ref_audio: InlineAudio | None = None
    ref_text: str = Field(default="", description="Transcript of `ref_audio`; without it, only the timbre is used.")
    sample_rate: int | None = Field(default=None, ge=MIN_RATE, le=MAX_RATE, description="Of the audio, in Hz.")
    trim_leading_silence: bool = Field(default=True, description="Remove the silence before the first word.")
    stream: bool = Field(
        default=True,
        description="false: send the answer as a whole, with its length, also in the header of WAV and FLAC.",
    )
    language: str = Field(default="", max_length=64, description="BCP-47, such as en-US: how numbers are read.")
    seed: int | None = Field(default=None, ge=0, lt=2**64, description="The same seed gives the same speech.")
    timestamps: bool = Field(
        default=False, description="Send the times of words and utterances; needs stream_format sse."
    )


def router(context: GatewayContext, models: Models) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1", route_class=JsonRoute, tags=["OpenAI"], responses=OPENAI_ERRORS)

    @routes.post("/audio/speech", response_class=Response, responses=_ANSWER)
    async def speech(request: SpeechRequest) -> Response:
        """Speak `input`; the audio is streamed while it is made."""
        with named_as(FIELDS):
            check_text(request.input, context.settings.max_text_chars)  # may be less than the field's own limit
            options = speech_options(context, await _to_synthesis_config(models, request))
            if request.stream_format == "sse" and not request.stream:
                raise InvalidInput("stream false and stream_format sse exclude each other", field="stream")
            if request.timestamps and request.stream_format != "sse":
                raise InvalidInput("times are sent as events; set stream_format to sse", field="timestamps")
        if request.stream_format == "sse":
            frame = partial(_events, text=request.input, timestamps=request.timestamps)
            return SpeechResponse(context, options, request.input, FIELDS, media_type="text/event-stream", frame=frame)
        return SpeechResponse(context, options, request.input, FIELDS, stream=request.stream)

    return routes


async def _to_synthesis_config(models: Models, request: SpeechRequest) -> tts_pb2.SynthesisConfig:
    config = tts_pb2.SynthesisConfig(
        speed=request.speed,
        language=request.language,
        style=await models.style(request.model),
        word_times=request.timestamps,
    )
    config.audio.encoding = _ENCODINGS[request.response_format]
    config.audio.sample_rate = request.sample_rate or (PCM_RATE if request.response_format == "pcm" else 0)
    config.audio.keep_leading_silence = not request.trim_leading_silence
    if request.seed is not None:
        config.seed = request.seed
    if request.ref_audio is None:
        config.voice_name = request.voice.id if isinstance(request.voice, VoiceId) else request.voice
    else:
        config.prompt.audio = await decode_audio(request.ref_audio)
        config.prompt.transcript = request.ref_text
        if not request.ref_text.strip():
            config.mode = tts_pb2.SPEECH_MODE_CROSS_LINGUAL
    if request.instructions.strip():
        config.mode = tts_pb2.SPEECH_MODE_INSTRUCT
        config.instruct_text = request.instructions
    return config


async def _events(session: Events, *, text: str, timestamps: bool) -> AsyncGenerator[bytes]:
    """Yield a session as server-sent events; with `timestamps` the times of words, each before its audio."""
    rate, last = 1, (0, 0)
    async for event in session:
        match event:
            case tts_pb2.Started():
                rate = event.sample_rate
            case audio_pb2.AudioChunk():
                if words := timed_words(event):
                    yield _event({"type": "speech.audio.words", "words": [_word(word, text) for word in words]})
                if event.pcm:
                    audio = base64.b64encode(event.pcm).decode()
                    yield _event({"type": "speech.audio.delta", "audio": audio})
            case tts_pb2.Spoken() if timestamps:
                yield _event(_utterance(text, last, (event.text_offset, event.sample), rate))
                last = event.text_offset, event.sample
            case tts_pb2.Finished():
                tokens = (event.text_tokens, event.speech_tokens)
                usage = {"input_tokens": tokens[0], "output_tokens": tokens[1], "total_tokens": sum(tokens)}
                yield _event({"type": "speech.audio.done", "usage": usage})


def _word(word: TimedWord, text: str) -> dict[str, Any]:
    """Return a word of an event. `end` is null if the word goes on; it comes again with its end."""
    return {
        "word": word.text(text),
        "offset": word.offset,
        "start": round(word.start, 3),
        "end": None if word.end is None else round(word.end, 3),
        "confidence": round(word.confidence, 2),
    }


def _utterance(text: str, begin: tuple[int, int], end: tuple[int, int], rate: int) -> dict[str, Any]:
    """Return the event after the audio of an utterance; `begin` and `end` are characters and samples."""
    return {
        "type": "speech.audio.utterance",
        "text": text[begin[0] : end[0]],
        "offset": begin[0],
        "start": round(begin[1] / rate, 3),
        "end": round(end[1] / rate, 3),
    }


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The audio in `response_format`, or events that carry it in base64 (`stream_format` sse).",
        "content": {
            **{
                f"audio/{kind}": _BINARY
                for kind in ("mpeg", "ogg", "aac", "flac", "wav", "pcm", "basic", "x-alaw-basic")
            },
            "text/event-stream": {"schema": {"type": "string"}},
        },
    }
}
