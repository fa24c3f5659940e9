"""CosyVoice's HTTP API: forms in, headerless s16le PCM out, streamed. GET with a body works like POST."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, File, Form, UploadFile
from fastapi.responses import Response

from gateway.api.common.errors import MESSAGE_ERRORS
from gateway.api.common.fields import named_as
from gateway.api.common.response import SpeechResponse
from gateway.api.cosyvoice import requests as cosyvoice
from gateway.api.lighttts import http as lighttts
from gateway.api.lighttts.http import AUDIO_ANSWER
from gateway.session.context import GatewayContext
from lighttts.v1 import tts_pb2

FIELDS = cosyvoice.FIELDS | {"audio": "prompt_wav"}

Text = Annotated[str, Form()]
Upload = Annotated[UploadFile, File()]
Language = Annotated[str, Form(description="BCP-47, such as en-US: how numbers are read. An extension of this API.")]


def router(context: GatewayContext) -> APIRouter:
    """Return the routes; `/inference_zero_shot` is LightTTS's, at this API's sample rate."""
    routes = APIRouter(tags=["CosyVoice"], default_response_class=Response, responses=AUDIO_ANSWER | MESSAGE_ERRORS)
    routes.include_router(lighttts.router(context, sample_rate=cosyvoice.SAMPLE_RATE, stream_by_default=True))

    def speak(config: tts_pb2.SynthesisConfig, text: str, language: str) -> Response:
        with named_as(FIELDS):
            options, text = cosyvoice.checked(context, config, text, language)
        return SpeechResponse(context, options, text, FIELDS)

    @routes.get("/inference_sft", include_in_schema=False)
    @routes.post("/inference_sft")
    async def inference_sft(tts_text: Text, spk_id: Text, language: Language = "") -> Response:
        """Speak with one of the server's voices."""
        return speak(cosyvoice.known_voice(spk_id), tts_text, language)

    @routes.get("/inference_cross_lingual", include_in_schema=False)
    @routes.post("/inference_cross_lingual")
    async def inference_cross_lingual(tts_text: Text, prompt_wav: Upload, language: Language = "") -> Response:
        """Speak with the timbre of a recording in another language."""
        return speak(cosyvoice.cross_lingual(await prompt_wav.read()), tts_text, language)

    @routes.get("/inference_instruct", include_in_schema=False)
    @routes.post("/inference_instruct")
    async def inference_instruct(
        tts_text: Text, spk_id: Text, instruct_text: Text, language: Language = ""
    ) -> Response:
        """Speak with one of the server's voices, in the way that `instruct_text` describes."""
        return speak(cosyvoice.instructed(cosyvoice.known_voice(spk_id), instruct_text), tts_text, language)

    @routes.get("/inference_instruct2", include_in_schema=False)
    @routes.post("/inference_instruct2")
    async def inference_instruct2(
        tts_text: Text, instruct_text: Text, prompt_wav: Upload, language: Language = ""
    ) -> Response:
        """Speak with the timbre of a recording, in the way that `instruct_text` describes."""
        timbre = cosyvoice.cross_lingual(await prompt_wav.read())
        return speak(cosyvoice.instructed(timbre, instruct_text), tts_text, language)

    return routes
