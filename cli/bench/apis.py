"""The APIs that a load can use: the gateway's own gRPC and Riva's; OpenAI's is in a module of its own."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc
import grpc.aio

from cli.bench.playback import Playback
from cli.bench.prompts import Prompt
from cli.client import Access, client_error
from cli.say import make_config
from lighttts.compat import riva_common_pb2, riva_tts_pb2, riva_tts_pb2_grpc
from lighttts.v1 import tts_pb2, tts_pb2_grpc
from services.common.workers.call_end import CallEnd, answers

RIVA_RATE = 24_000
"""Rate at which Riva's API is asked for samples, in Hz."""
SPLIT = ("encode", "first_token", "first_hop", "decode", "delivery")
"""The parts of the time to the first audio that our gateway reports, in their order."""


@dataclass
class Answer:
    """What one request received, as far as it has come. Times in seconds of the monotonic clock."""

    first_byte_at: float | None = None
    """When the server's first message, or the first byte of the body, arrived."""
    playback: Playback = field(default_factory=Playback)
    split: dict[str, float] = field(default_factory=dict)
    """The server's own account of the time to the first audio; empty if it gives none."""

    def take(self, pcm: bytes, sample_rate: int) -> None:
        """Count s16le samples that arrived just now. `sample_rate` in Hz."""
        now = time.monotonic()
        if self.first_byte_at is None:
            self.first_byte_at = now
        if pcm:
            self.playback.take_samples(now, pcm, sample_rate)


class Api(ABC):
    """A connection to a server. `speak` sends one request and fills an answer; it raises ClientError."""

    @abstractmethod
    async def speak(self, prompt: Prompt, seed: int, answer: Answer) -> None: ...


class OwnGrpc(Api):
    """lighttts.v1.TextToSpeech/StreamingSynthesize, the text in one message."""

    def __init__(self, channels: list[grpc.aio.Channel], access: Access) -> None:
        self._stubs = [tts_pb2_grpc.TextToSpeechStub(channel) for channel in channels]
        self._access = access

    async def speak(self, prompt: Prompt, seed: int, answer: Answer) -> None:
        config = make_config(prompt.voice, None, None, seed, 1.0)
        config.language = prompt.language

        async def requests() -> AsyncIterator[tts_pb2.StreamingSynthesizeRequest]:
            yield tts_pb2.StreamingSynthesizeRequest(config=config)
            yield tts_pb2.StreamingSynthesizeRequest(text=prompt.text)
            yield tts_pb2.StreamingSynthesizeRequest(end=tts_pb2.End())

        call = self._stubs[seed % len(self._stubs)].StreamingSynthesize(requests(), metadata=self._access.metadata)
        try:
            async for response in answers(call, CallEnd(call)):
                answer.take(response.audio.pcm, response.audio.sample_rate)
                if response.HasField("finished") and response.finished.HasField("first_audio"):
                    answer.split = {part: getattr(response.finished.first_audio, part) for part in SPLIT}
        except grpc.aio.AioRpcError as error:
            raise client_error(error, self._access) from error


class Riva(Api):
    """nvidia.riva.tts.RivaSpeechSynthesis/SynthesizeOnline, one request per call."""

    def __init__(self, channels: list[grpc.aio.Channel], access: Access) -> None:
        self._stubs = [riva_tts_pb2_grpc.RivaSpeechSynthesisStub(channel) for channel in channels]
        self._access = access

    async def speak(self, prompt: Prompt, seed: int, answer: Answer) -> None:
        request = riva_tts_pb2.SynthesizeSpeechRequest(
            text=prompt.text,
            voice_name=prompt.voice or "",
            language_code=prompt.language or "en-US",
            encoding=riva_common_pb2.LINEAR_PCM,
            sample_rate_hz=RIVA_RATE,
        )

        async def requests() -> AsyncIterator[riva_tts_pb2.SynthesizeSpeechRequest]:
            yield request

        call = self._stubs[seed % len(self._stubs)].SynthesizeOnline(requests(), metadata=self._access.metadata)
        try:
            async for response in answers(call, CallEnd(call)):
                answer.take(response.audio, RIVA_RATE)
        except grpc.aio.AioRpcError as error:
            raise client_error(error, self._access) from error
