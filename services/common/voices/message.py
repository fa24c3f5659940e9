"""Conversion of `Voice` to the message `VoiceContent` and back, with checks."""

from __future__ import annotations

import numpy as np

from lighttts.v1 import voice_pb2
from services.common.checkpoint.flow_config import FlowConfig
from services.common.errors import InvalidInput
from services.common.voices.voice import Voice


def to_message(voice: Voice, model: str) -> voice_pb2.VoiceContent:
    """Convert a voice to a message; `model` is the identity of the checkpoint that extracted it."""
    return voice_pb2.VoiceContent(
        voice_hash=voice.hash,
        model=model,
        transcript=voice.transcript,
        prompt_text_ids=voice.prompt_text_ids.tolist(),
        speech_tokens=voice.speech_tokens.tolist(),
        mel=voice.mel.astype("<f4").tobytes(),
        embedding=voice.embedding.tolist(),
        seconds=voice.seconds,
        warnings=voice.warnings,
    )


def from_message(message: voice_pb2.VoiceContent, model: str, flow: FlowConfig) -> Voice:
    """Convert a message to a voice of the checkpoint `model`, whose flow determines the sizes.

    Raises InvalidInput for another model's voice or inconsistent content.
    """
    if message.model != model:
        raise InvalidInput("this voice was extracted by another model; encode the prompt again", field="voice.model")
    tokens = np.array(message.speech_tokens, dtype=np.int32)
    expected = len(tokens) * flow.mel_frames_per_token * flow.output_size * 4
    if len(message.mel) != expected:
        raise InvalidInput(f"voice mel has {len(message.mel)} bytes, expected {expected}", field="voice.mel")
    if len(message.embedding) != flow.speaker_dim:
        raise InvalidInput(
            f"voice embedding has {len(message.embedding)} values, expected {flow.speaker_dim}", field="voice.embedding"
        )
    mel = np.frombuffer(message.mel, dtype="<f4").reshape(-1, flow.output_size).astype(np.float32)
    embedding = np.array(message.embedding, dtype=np.float32)
    if not (np.isfinite(mel).all() and np.isfinite(embedding).all()):
        raise InvalidInput("voice mel or embedding has values that are not finite numbers", field="voice")
    return Voice(
        hash=message.voice_hash,
        transcript=message.transcript,
        prompt_text_ids=np.array(message.prompt_text_ids, dtype=np.int32),
        speech_tokens=tokens,
        mel=mel,
        embedding=embedding,
        seconds=message.seconds,
        warnings=tuple(message.warnings),
    )
