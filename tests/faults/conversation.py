"""A client of the public streaming API that records every event of a stream with its time of arrival."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import pairwise

import grpc.aio
import numpy as np
from numpy.typing import NDArray

from cli.client import Access
from lighttts.v1 import audio_pb2, tts_pb2, tts_pb2_grpc

LONGEST_FRAGMENT = 20
"""Most characters of one fragment of a text."""
FRAGMENT_INTERVAL = 0.005
"""Seconds between two fragments."""
PLAYER_DELAY = 0.25
"""Seconds of audio that a simulated player buffers before it starts."""
TIMED_OUT = "TIMED_OUT"
"""Status of a stream that did not end in time."""


@dataclass(frozen=True)
class Chunk:
    """One chunk of 16-bit audio."""

    arrived: float
    """Monotonic clock, in seconds."""
    sequence: int
    first_sample: int
    pcm: bytes

    @property
    def samples(self) -> int:
        return len(self.pcm) // 2


@dataclass
class Recording:
    """Everything that one stream returned."""

    chunks: list[Chunk] = field(default_factory=list)
    resumed: list[str] = field(default_factory=list)
    """Why the stream moved to another worker, once per move."""
    warnings: list[str] = field(default_factory=list)
    reconnect: bool = False
    finished: tts_pb2.Finished | None = None
    code: str = ""
    """Name of the gRPC status, or TIMED_OUT."""
    details: str = ""
    began: float = 0.0
    ended: float = 0.0
    sample_rate: int = 24000

    @property
    def samples(self) -> NDArray[np.int32]:
        """The audio [n], in steps of 16-bit samples."""
        return np.frombuffer(b"".join(chunk.pcm for chunk in self.chunks), "<i2").astype(np.int32)

    @property
    def seconds(self) -> float:
        """From the request to the end of the stream."""
        return self.ended - self.began

    def longest_gap(self) -> float:
        """Return the longest time in seconds between two chunks of audio."""
        times = [chunk.arrived for chunk in self.chunks if chunk.pcm]
        return max((later - earlier for earlier, later in pairwise(times)), default=0.0)

    def longest_silence(self) -> float:
        """Return the longest time in seconds in which a player with a buffer of PLAYER_DELAY had nothing to play."""
        silence = 0.0
        played_until: float | None = None
        for chunk in self.chunks:
            if not chunk.pcm:
                continue
            if played_until is None:
                played_until = chunk.arrived + PLAYER_DELAY
            elif chunk.arrived > played_until:
                silence = max(silence, chunk.arrived - played_until)
                played_until = chunk.arrived
            played_until += chunk.samples / self.sample_rate
        return silence


async def converse(
    access: Access,
    text: str,
    seed: int,
    voice: str,
    *,
    fragments: random.Random | None = None,
    limit: float | None = 90.0,
) -> Recording:
    """Speak `text` through StreamingSynthesize and record the answer.

    `fragments` cuts the text into random pieces, which are sent quickly; None sends it in one message. An error of the
    call, or no end within `limit` seconds (None: no limit), is part of the recording and is not raised.
    """
    recording = Recording(began=time.monotonic())
    try:
        async with asyncio.timeout(limit), access.open() as channel:
            call = tts_pb2_grpc.TextToSpeechStub(channel).StreamingSynthesize(
                _requests(text, seed, voice, fragments), metadata=access.metadata
            )
            async for response in call:
                _record(recording, response)
            recording.code = (await call.code()).name
    except grpc.aio.AioRpcError as error:
        recording.code, recording.details = error.code().name, error.details() or ""
    except TimeoutError:
        recording.code, recording.details = TIMED_OUT, f"no end within {limit} s"
    recording.ended = time.monotonic()
    return recording


async def _requests(
    text: str, seed: int, voice: str, fragments: random.Random | None
) -> AsyncIterator[tts_pb2.StreamingSynthesizeRequest]:
    config = tts_pb2.SynthesisConfig(voice_name=voice, seed=seed, format=audio_pb2.SAMPLE_FORMAT_S16LE)
    yield tts_pb2.StreamingSynthesizeRequest(config=config)
    position = 0
    while position < len(text):
        size = fragments.randint(1, LONGEST_FRAGMENT) if fragments else len(text)
        yield tts_pb2.StreamingSynthesizeRequest(text=text[position : position + size])
        position += size
        if fragments:
            await asyncio.sleep(FRAGMENT_INTERVAL)
    yield tts_pb2.StreamingSynthesizeRequest(end=tts_pb2.End())


def _record(recording: Recording, response: tts_pb2.StreamingSynthesizeResponse) -> None:
    match response.WhichOneof("event"):
        case "started":
            recording.sample_rate = response.started.sample_rate
        case "audio":
            audio = response.audio
            recording.chunks.append(Chunk(time.monotonic(), audio.sequence, audio.first_sample, audio.pcm))
        case "resumed":
            recording.resumed.append(response.resumed.reason)
        case "warning":
            recording.warnings.append(response.warning.message)
        case "reconnect":
            recording.reconnect = True
        case "finished":
            recording.finished = response.finished
