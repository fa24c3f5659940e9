"""LightTTS's HTTP API (docs/spec/wire.md, section 1): headerless s16le PCM."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterator
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, UploadFile
from fastapi.responses import Response

from gateway.api.common.errors import MESSAGE_ERRORS
from gateway.api.common.fields import named_as
from gateway.api.common.options import speech_options, without_preamble
from gateway.api.common.response import SpeechResponse, audio_bytes
from gateway.session.context import GatewayContext
from gateway.session.options import check_text
from gateway.session.output import Events
from lighttts.v1 import audio_pb2, tts_pb2
from services.common.errors import Internal, InvalidInput

SAMPLE_RATE = 24000
"""Sample rate that clients of this API expect, in Hz."""
DEFAULT_STYLE = "default"
"""Name of the style that speaks if a request names none."""
FIELDS = {
    "text": "tts_text",
    "audio": "prompt_wav",
    "transcript": "prompt_text",
    "style": "tts_model_name",
    "speed": "speed",
    "language": "language",
}
AUDIO_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Headerless s16le mono PCM.",
        "content": {"audio/pcm": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class GenerationError(Internal):
    """A synthesis that failed in the server; LightTTS's clients expect status 417 if the response is not streamed."""

    http_status = 417


@contextlib.contextmanager
def generation_errors() -> Iterator[None]:
    """Convert internal errors that leave the block to GenerationErrors."""
    try:
        yield
    except Internal as error:
        raise GenerationError(error.message) from error


def router(context: GatewayContext, *, sample_rate: int = SAMPLE_RATE, stream_by_default: bool = False) -> APIRouter:
    """Return the routes of this API. CosyVoice's API uses one of them too, at another rate and streaming by default."""
    routes = APIRouter(tags=["LightTTS"])

    @routes.get("/inference_zero_shot", include_in_schema=False)
    @routes.post(
        "/inference_zero_shot",
        response_class=Response,
        responses=AUDIO_ANSWER | MESSAGE_ERRORS | {417: MESSAGE_ERRORS[500]},
    )
    async def inference_zero_shot(
        tts_text: Annotated[str, Form()],
        prompt_text: Annotated[str, Form()],
        prompt_wav: Annotated[UploadFile, File()],
        stream: Annotated[bool, Form()] = stream_by_default,
        tts_model_name: Annotated[str, Form()] = DEFAULT_STYLE,
        speed: Annotated[float, Form()] = 1.0,
        language: Annotated[str, Form()] = "",
    ) -> Response:
        """Speak `tts_text` with the voice of `prompt_wav`, whose transcript is `prompt_text`."""
        with named_as(FIELDS):
            text, dropped = without_preamble(context, tts_text, "text")
            check_text(text, context.settings.max_text_chars)
            if stream and speed != 1.0:
                raise InvalidInput("speed can only be changed without stream; leave one of them out", field="speed")
            if not speed:  # 0 means unset in our config, but this client sent it
                raise InvalidInput("speed is 0; it must be 0.25 to 4", field="speed")
            config = tts_pb2.SynthesisConfig(
                prompt=tts_pb2.Prompt(audio=await prompt_wav.read(), transcript=prompt_text),
                style=style_of(tts_model_name),
                audio=pcm(sample_rate),
                speed=speed,
                language=language,
            )
            options = speech_options(context, config, *dropped)
        return SpeechResponse(context, options, text, FIELDS, stream=stream, frame=None if stream else _whole)

    return routes


def style_of(tts_model_name: str) -> str:
    """Return our name of the style; LightTTS's `default` is our empty name."""
    return "" if tts_model_name == DEFAULT_STYLE else tts_model_name


def pcm(sample_rate: int) -> audio_pb2.AudioOutput:
    """Return the output format of bare 16-bit samples at a rate in Hz."""
    return audio_pb2.AudioOutput(encoding=audio_pb2.AUDIO_ENCODING_PCM_S16LE, sample_rate=sample_rate)


async def _whole(session: Events) -> AsyncGenerator[bytes]:
    with generation_errors():
        async for part in audio_bytes(session):
            yield part
