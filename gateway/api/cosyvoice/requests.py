"""CosyVoice's four modes of request (docs/spec/wire.md, section 2) as our synthesis config, for gRPC and HTTP."""

from __future__ import annotations

from gateway.api.common.options import speech_options, without_preamble
from gateway.api.lighttts.http import pcm
from gateway.session.context import GatewayContext
from gateway.session.options import SpeechOptions, check_text
from lighttts.v1 import tts_pb2

SAMPLE_RATE = 22050
"""The rate, in Hz, that these clients write into their WAV files, whatever the model's rate."""
FIELDS = {
    "text": "tts_text",
    "transcript": "prompt_text",
    "voice_name": "spk_id",
    "instruct_text": "instruct_text",
}


def known_voice(speaker: str) -> tts_pb2.SynthesisConfig:
    """Return the config of one of the server's voices. The empty name is the default voice."""
    return tts_pb2.SynthesisConfig(voice_name=speaker)


def zero_shot(audio: bytes, transcript: str) -> tts_pb2.SynthesisConfig:
    """Return the config of a voice that is cloned from a recording and its transcript."""
    return tts_pb2.SynthesisConfig(prompt=tts_pb2.Prompt(audio=audio, transcript=transcript))


def cross_lingual(audio: bytes) -> tts_pb2.SynthesisConfig:
    """Return the config of a recording's timbre, for text in another language."""
    return tts_pb2.SynthesisConfig(prompt=tts_pb2.Prompt(audio=audio), mode=tts_pb2.SPEECH_MODE_CROSS_LINGUAL)


def instructed(config: tts_pb2.SynthesisConfig, instruct_text: str) -> tts_pb2.SynthesisConfig:
    """Add an instruction on how to speak to `config`, and return it."""
    config.mode = tts_pb2.SPEECH_MODE_INSTRUCT
    config.instruct_text = instruct_text
    return config


def checked(
    context: GatewayContext, config: tts_pb2.SynthesisConfig, text: str, language: str
) -> tuple[SpeechOptions, str]:
    """Return the request's options and the text to speak. `language`: of BCP-47 or empty. Raises InvalidInput."""
    text, dropped = without_preamble(context, text, "text")
    check_text(text, context.settings.max_text_chars)
    config.audio.CopyFrom(pcm(SAMPLE_RATE))
    config.language = language
    return speech_options(context, config, *dropped), text
