"""Converts requests of ElevenLabs' API to our synthesis config."""

from __future__ import annotations

import re

from pydantic import Field

from gateway.api.common.json_body import JsonFields
from gateway.api.common.options import speech_options
from gateway.api.openai.models import Models
from gateway.session.context import GatewayContext
from gateway.session.options import SpeechOptions
from lighttts.v1 import audio_pb2, tts_pb2
from services.common.errors import InvalidInput, quoted

FIELDS = {
    "text": "text",
    "voice_name": "voice_id",
    "model": "model_id",
    "style": "model_id",
    "speed": "voice_settings.speed",
    "language": "language_code",
    "encoding": "output_format",
    "sample_rate": "output_format",
    "seed": "seed",
}
DEFAULT_FORMAT = "mp3_44100_128"
NO_VOICE = "None"
"""What Pipecat's service writes into the address if it has no voice."""
_ENCODINGS = {
    "mp3": audio_pb2.AUDIO_ENCODING_MP3,
    "opus": audio_pb2.AUDIO_ENCODING_OGG_OPUS,
    "pcm": audio_pb2.AUDIO_ENCODING_PCM_S16LE,
    "wav": audio_pb2.AUDIO_ENCODING_WAV,
    "ulaw": audio_pb2.AUDIO_ENCODING_MULAW,
    "alaw": audio_pb2.AUDIO_ENCODING_ALAW,
}
_FORMAT = re.compile(r"([a-z0-9]+)_([0-9]{1,6})(?:_[0-9]{1,3})?")
"""Kind, rate, and the bit rate in kbit/s, which this server chooses itself."""


class VoiceSettings(JsonFields):
    """The other settings of ElevenLabs' voices have no equivalent and are ignored."""

    speed: float = Field(default=1.0, ge=0.25, le=4.0)


async def to_options(
    context: GatewayContext,
    models: Models,
    *,
    voice_id: str,
    model_id: str = "",
    output_format: str = "",
    language_code: str = "",
    settings: VoiceSettings | None = None,
    seed: int | None = None,
    word_times: bool = False,
) -> SpeechOptions:
    """Return the checked options of a request. Raises InvalidInput, and NotFound for a model."""
    config = tts_pb2.SynthesisConfig(
        voice_name="" if voice_id == NO_VOICE else voice_id,
        style=await models.style(model_id),
        language=language_code,
        speed=(settings or VoiceSettings()).speed,
        word_times=word_times,
    )
    config.audio.CopyFrom(_audio(output_format or DEFAULT_FORMAT))
    if seed is not None:
        config.seed = seed
    return speech_options(context, config)


def _audio(output_format: str) -> audio_pb2.AudioOutput:
    parts = _FORMAT.fullmatch(output_format)
    if parts is None or parts[1] not in _ENCODINGS:
        kinds = ", ".join(f"{kind}_..." for kind in _ENCODINGS)
        raise InvalidInput(
            f"output_format is {quoted(output_format)}; send one of {kinds} with a rate in Hz, such as pcm_24000",
            field="output_format",
        )
    return audio_pb2.AudioOutput(encoding=_ENCODINGS[parts[1]], sample_rate=int(parts[2]))
