"""What CosyVoice's clients ask for (wire contract section 2), over gRPC or HTTP: four modes, one meaning each."""

from __future__ import annotations

from gateway.api.lighttts.http import pcm
from gateway.session.context import GatewayContext
from gateway.session.options import SpeechOptions, check_text
from lighttts.v1 import tts_pb2

SAMPLE_RATE = 22050
"""What these clients write into their WAV files whatever the model's rate, in Hz."""
FIELDS = {
    "text": "tts_text",
    "transcript": "prompt_text",
    "voice_name": "spk_id",
    "instruct_text": "instruct_text",
}


def known_voice(speaker: str) -> tts_pb2.SynthesisConfig:
    """A voice the server knows. The empty name is the default voice."""
    return tts_pb2.SynthesisConfig(voice_name=speaker)


def zero_shot(audio: bytes, transcript: str) -> tts_pb2.SynthesisConfig:
    """A voice of the caller's own."""
    return tts_pb2.SynthesisConfig(prompt=tts_pb2.Prompt(audio=audio, transcript=transcript))


def cross_lingual(audio: bytes) -> tts_pb2.SynthesisConfig:
    """The timbre of a recording, for text in another language."""
    return tts_pb2.SynthesisConfig(prompt=tts_pb2.Prompt(audio=audio), mode=tts_pb2.SPEECH_MODE_CROSS_LINGUAL)


def instructed(config: tts_pb2.SynthesisConfig, instruct_text: str) -> tts_pb2.SynthesisConfig:
    """`config`'s voice, spoken as `instruct_text` says."""
    config.mode = tts_pb2.SPEECH_MODE_INSTRUCT
    config.instruct_text = instruct_text
    return config


def checked(context: GatewayContext, config: tts_pb2.SynthesisConfig, text: str) -> SpeechOptions:
    """The request's options. Raises InvalidInput."""
    check_text(text, context.settings.max_text_chars)
    config.audio.CopyFrom(pcm(SAMPLE_RATE))
    return SpeechOptions.from_config(config, context.settings.max_prompt_bytes)
