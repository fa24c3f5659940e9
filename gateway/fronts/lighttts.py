"""LightTTS's HTTP interface (wire contract section 1): headerless s16le PCM at the model's rate."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, File, Form, UploadFile
from fastapi.responses import Response

from gateway.fronts.speech_response import SpeechResponse
from gateway.options import SpeechOptions, check_text
from gateway.session import Stages
from lighttts.v1 import audio_pb2, tts_pb2
from services.common.errors import InvalidInput

DEFAULT_STYLE = "default"
"""The checkpoint that speaks when a request names none."""


def router(stages: Stages) -> APIRouter:
    """The routes of this interface."""
    routes = APIRouter(tags=["LightTTS"])

    # Two spellings, because a redirect would lose the body of clients that do not follow it.
    @routes.post("/inference_zero_shot", response_class=Response)
    @routes.post("/inference_zero_shot/", response_class=Response, include_in_schema=False)
    async def inference_zero_shot(
        tts_text: Annotated[str, Form()],
        prompt_text: Annotated[str, Form()],
        prompt_wav: Annotated[UploadFile, File()],
        stream: Annotated[bool, Form()] = False,
        tts_model_name: Annotated[str, Form()] = DEFAULT_STYLE,
        speed: Annotated[float, Form()] = 1.0,
    ) -> Response:
        """Speaks `tts_text` with the voice of `prompt_wav`, which says `prompt_text`."""
        check_text(tts_text, stages.settings.max_text_chars)
        if stream and speed != 1.0:
            raise InvalidInput("speed can only be changed without stream; leave one of them out", field="speed")
        if not speed:  # in the product's own configuration 0 means unset; here it was asked for
            raise InvalidInput("speed is 0; it must be 0.5 to 2", field="speed")
        config = tts_pb2.SynthesisConfig(
            prompt=tts_pb2.Prompt(audio=await prompt_wav.read(), transcript=prompt_text),
            style="" if tts_model_name == DEFAULT_STYLE else tts_model_name,
            format=audio_pb2.SAMPLE_FORMAT_S16LE,
            speed=speed,
        )
        options = SpeechOptions.from_config(config, stages.settings.max_prompt_bytes)
        return SpeechResponse(stages, options, tts_text, stream=stream)

    @routes.api_route("/query_tts_model", methods=["GET", "POST"])
    async def query_tts_model() -> dict[str, list[str]]:
        """The names `tts_model_name` may have."""
        return {"tts_models": [DEFAULT_STYLE]}

    return routes
