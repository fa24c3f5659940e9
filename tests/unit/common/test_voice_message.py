"""Voices on the wire: nothing lost, and what cannot be a voice refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lighttts.v1 import voice_pb2
from services.common.checkpoint.model_dir import open_model_dir
from services.common.errors import InvalidInput
from services.common.voices.message import from_message, to_message
from services.common.voices.voice import Voice

FLOW = replace(open_model_dir(Path(__file__).parents[3] / "models" / "tiny").flow, speaker_dim=200)
"""The directory says how large an embedding is."""


def make_voice() -> Voice:
    values = np.random.default_rng(1)
    return Voice(
        hash="abc",
        transcript="Grüße, 你好",
        prompt_text_ids=np.array([1, 1023], dtype=np.int32),
        speech_tokens=np.array([0, 728, 5], dtype=np.int32),
        mel=values.normal(size=(6, 80)).astype(np.float32),
        embedding=values.normal(size=200).astype(np.float32),
        seconds=2.2,
        warnings=("quiet",),
    )


def test_a_voice_survives_the_wire() -> None:
    voice = make_voice()
    wire = to_message(voice, "model").SerializeToString()
    back = from_message(voice_pb2.VoiceContent.FromString(wire), "model", FLOW)
    for ours, theirs in zip(voice.arrays(), back.arrays(), strict=True):
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)
        assert not theirs.flags.writeable
    assert (back.hash, back.transcript, back.seconds, back.warnings) == ("abc", "Grüße, 你好", 2.2, ("quiet",))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model": "other"}, "voice.model"),
        ({"mel": b"123"}, "voice.mel"),
        ({"mel": b""}, "voice.mel"),
        ({"speech_tokens": [1]}, "voice.mel"),
        ({"embedding": [0.5] * 192}, "voice.embedding"),
        ({"embedding": [math.nan] * 200}, "voice"),
        ({"mel": np.full(480, np.inf, "<f4").tobytes()}, "voice"),
    ],
)
def test_what_cannot_be_a_voice_is_refused(changes: dict[str, object], field: str) -> None:
    message = to_message(make_voice(), "model")
    for name in changes:
        message.ClearField(name)  # type: ignore[arg-type]
    message.MergeFrom(voice_pb2.VoiceContent(**changes))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput) as caught:
        from_message(message, "model", FLOW)
    assert caught.value.field == field
