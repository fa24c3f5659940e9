"""Speak through a running stack and collect the results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cli.client import Speech, speak
from cli.local.stack import Stack
from cli.say import make_config
from lighttts.v1.audio_pb2 import AudioChunk

LEAD_SECONDS = 2.0
"""Lead of the llm in the tests' stack, in seconds of audio."""


@dataclass(frozen=True)
class Spoken:
    """One request's figures, its chunks, and its samples [n] in [-1, 1]."""

    speech: Speech
    chunks: list[AudioChunk]
    samples: NDArray[np.float32]


async def say(
    stack: Stack,
    text: str,
    seed: int = 1,
    voice: str = "anna",
    on_first_chunk: Callable[[], None] = lambda: None,
) -> Spoken:
    """Speak one text through the gateway's streaming API."""
    chunks: list[AudioChunk] = []

    def take(chunk: AudioChunk) -> None:
        chunks.append(chunk)
        if len(chunks) == 1:
            on_first_chunk()

    config = make_config(voice, None, None, seed, 1.0)
    speech = await speak(stack.gateway.address, config, text, take)
    samples = np.frombuffer(b"".join(chunk.pcm for chunk in chunks), "<i2").astype(np.float32) / np.float32(32768)
    return Spoken(speech, chunks, samples)


async def served_by(stack: Stack, utterances: int) -> Counter[str]:
    """Count the decode workers that serve this number of short utterances, one after the other."""
    return Counter([(await say(stack, "We do not tell.")).speech.decode_workers[0] for _ in range(utterances)])
