"""CosyVoice's gRPC API: one request in, headerless s16le PCM out, in parts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc.aio

from gateway import metrics
from gateway.api.common.audio_upload import as_wav, is_file
from gateway.api.common.fields import named_as
from gateway.api.common.provenance import Trailers
from gateway.api.common.response import audio_bytes
from gateway.api.cosyvoice import requests as cosyvoice
from gateway.cache.synthesis import speech
from gateway.session.context import GatewayContext
from lighttts.compat import cosyvoice_pb2, cosyvoice_pb2_grpc
from lighttts.v1 import tts_pb2
from services.common.errors import InvalidInput

if TYPE_CHECKING:
    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

API = "cosyvoice"
NAME = "cosyvoice.CosyVoice"
LANGUAGE_KEY = "language"
"""Of the call's metadata."""
PROMPT_RATE = 16000
PART_BYTES = 2**20
"""Most bytes of one response message; clients refuse messages of more than 4 MB."""
FIELDS = cosyvoice.FIELDS | {"audio": "prompt_audio"}


class CosyVoiceServicer(cosyvoice_pb2_grpc.CosyVoiceServicer):
    """Handlers raise LightTtsErrors; the server's interceptor turns them into rich statuses."""

    def __init__(self, context: GatewayContext) -> None:
        self._context = context

    async def Inference(
        self, request: cosyvoice_pb2.Request, context: Context
    ) -> AsyncIterator[cosyvoice_pb2.Response]:
        with metrics.count_errors(API), named_as(FIELDS):
            config, text = _to_synthesis_config(request)
            options, text = cosyvoice.checked(self._context, config, text, _language(context))
            trailers = Trailers(self._context, context)
            async with speech(self._context, options, text) as session:
                async for audio in audio_bytes(trailers.taken_from(session)):
                    for start in range(0, len(audio), PART_BYTES):
                        yield cosyvoice_pb2.Response(tts_audio=audio[start : start + PART_BYTES])


def _language(context: Context) -> str:
    """Return the language from the call's metadata: the messages have no field for it."""
    found = [value for key, value in context.invocation_metadata() or () if key == LANGUAGE_KEY]
    return str(found[-1]) if found else ""


def _to_synthesis_config(request: cosyvoice_pb2.Request) -> tuple[tts_pb2.SynthesisConfig, str]:
    match request.WhichOneof("RequestPayload"):
        case "sft_request":
            sft = request.sft_request
            return cosyvoice.known_voice(sft.spk_id), sft.tts_text
        case "zero_shot_request":
            zero_shot = request.zero_shot_request
            return cosyvoice.zero_shot(_wav(zero_shot.prompt_audio), zero_shot.prompt_text), zero_shot.tts_text
        case "cross_lingual_request":
            cross = request.cross_lingual_request
            return cosyvoice.cross_lingual(_wav(cross.prompt_audio)), cross.tts_text
        case "instruct_request":
            instruct = request.instruct_request
            voice = cosyvoice.known_voice(instruct.spk_id)
            return cosyvoice.instructed(voice, instruct.instruct_text), instruct.tts_text
        case _:
            raise InvalidInput(
                "an empty request; send sft_request, zero_shot_request, cross_lingual_request or instruct_request"
            )


def _wav(prompt: bytes) -> bytes:
    """Convert the bare samples that these clients send to a WAV file; return a whole file unchanged."""
    return prompt if is_file(prompt) or not prompt else as_wav(prompt, PROMPT_RATE)
