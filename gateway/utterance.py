"""One utterance: one `Generate` call, or two when the first worker is lost before anything was heard."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import grpc
import grpc.aio

from gateway import metrics, tasks
from gateway.channel import Channel
from gateway.downstream import at_one_or_another
from gateway.encoding import FLOAT_BYTES
from lighttts.v1 import audio_pb2, llm_pb2, llm_pb2_grpc, tts_pb2, voice_pb2
from services.common.errors import Internal, LightTtsError, Unavailable
from services.common.pool import Pool
from services.common.telemetry import REQUEST_ID_KEY

_Call: TypeAlias = "grpc.aio.StreamStreamCall[llm_pb2.GenerateRequest, llm_pb2.GenerateResponse]"


@dataclass(frozen=True)
class AudioPart:
    """Consecutive float32 samples (little endian) of one utterance."""

    pcm: bytes
    last: bool


@dataclass
class _Sent:
    """What one call has been sent and has answered."""

    texts: int = 0
    position: float = 0.0
    voice_wanted: bool = False
    samples: int = 0
    """Samples received from it."""
    complete: bool = False
    """Its last audio was received."""


@dataclass(frozen=True)
class LlmStage:
    """What all utterances share."""

    pool: Pool
    silence_seconds: float
    """A worker that sends nothing for so long is taken for lost."""
    queue_messages: int
    """Audio messages held while nobody reads; then reading stops and the worker feels it."""


@dataclass
class Utterance:
    """Text tokens in by `say`, audio out by `parts`. Everything is freed when `run` ends or is cancelled."""

    stage: LlmStage
    start: llm_pb2.GenerateStart
    voice: voice_pb2.VoiceContent
    sample_rate: int
    """What the session has promised; a worker that differs is an error."""
    end_offset: int = 0
    """Characters of the session's text that have been spoken when this utterance has."""
    decode_worker: str = ""
    parts: Channel[AudioPart | tts_pb2.Resumed] = field(init=False)

    def __post_init__(self) -> None:
        self.parts = Channel(self.stage.queue_messages)
        self._texts: list[llm_pb2.TextTokens] = []
        self._position = 0.0
        self._changed = asyncio.Event()
        self.audible = asyncio.Event()
        """Its first audio has come, or never will."""

    def say(self, ids: Sequence[int], *, last: bool) -> None:
        """Adds text tokens; `last` ends the utterance."""
        self._texts.append(llm_pb2.TextTokens(ids=ids, last=last))
        self._changed.set()

    def report_position(self, seconds: float) -> None:
        """Tells the workers how much of this utterance the listener has played."""
        self._position = max(0.0, seconds)
        self._changed.set()

    async def run(self) -> None:
        """Generates until the last audio. Errors reach the reader of `parts`, after the audio that came before."""
        try:
            await at_one_or_another(self.stage.pool, self._attempt, self._may_repeat)
        except LightTtsError as error:
            self.parts.close(error)
        else:
            self.parts.close()
        finally:
            self.audible.set()

    def _may_repeat(self) -> bool:
        """Whether a second worker may begin again; then nothing of the first one is left."""
        if self.parts.taken:
            return False
        self.parts.clear()
        metrics.LLM_RETRIES.inc()
        return True

    async def _attempt(self, channel: grpc.aio.Channel) -> None:
        call = llm_pb2_grpc.LlmStub(channel).Generate(metadata=((REQUEST_ID_KEY, self.start.request_id),))
        sent = _Sent()
        try:
            async with tasks.group() as group:
                writer = group.create_task(self._write(call, sent))
                while not isinstance(response := await self._next(call), _End):
                    await self._handle(response, sent)
                writer.cancel()
        finally:
            call.cancel()
        if not sent.complete:
            raise Internal("an llm worker ended an utterance before its last audio")

    async def _write(self, call: _Call, sent: _Sent) -> None:
        """Sends what this call has not been sent yet, whenever something changes."""
        try:
            await call.write(llm_pb2.GenerateRequest(start=self.start))
            while True:
                self._changed.clear()
                if sent.voice_wanted:
                    sent.voice_wanted = False
                    await call.write(llm_pb2.GenerateRequest(voice=self.voice))
                while sent.texts < len(self._texts):
                    sent.texts += 1
                    await call.write(llm_pb2.GenerateRequest(text=self._texts[sent.texts - 1]))
                if self._position > sent.position:
                    sent.position = self._position
                    position = audio_pb2.PlaybackPosition(seconds=sent.position)
                    await call.write(llm_pb2.GenerateRequest(position=position))
                await self._changed.wait()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the call has ended; its reader learns why

    async def _next(self, call: _Call) -> llm_pb2.GenerateResponse | _End:
        try:
            async with asyncio.timeout(self.stage.silence_seconds):
                response = await call.read()
        except TimeoutError as error:
            raise Unavailable("an llm worker fell silent; try again", retry_after=1.0) from error
        return response if isinstance(response, llm_pb2.GenerateResponse) else _End()

    async def _handle(self, response: llm_pb2.GenerateResponse, sent: _Sent) -> None:
        match response.WhichOneof("response"):
            case "need_voice":
                sent.voice_wanted = True
                self._changed.set()
            case "started":
                if response.started.sample_rate != self.sample_rate:
                    raise Internal(
                        f"encode and decode disagree about the sample rate: {self.sample_rate} and "
                        f"{response.started.sample_rate}; do they serve the same model?"
                    )
                self.decode_worker = response.started.decode_worker
            case "audio":
                await self._relay(response.audio.audio, sent)
            case "moved":
                reason = f"decode worker {response.moved.from_worker} was lost: {response.moved.reason}"
                await self.parts.send(tts_pb2.Resumed(reason=reason))
            case "done":
                self.decode_worker = response.done.decode_worker or self.decode_worker

    async def _relay(self, audio: audio_pb2.AudioChunk, sent: _Sent) -> None:
        """Passes on what is new: audio sent again after a move is dropped, audio that is missing is an error."""
        known = sent.samples - audio.first_sample
        if known < 0:
            raise Internal(f"an llm worker skipped {-known} samples")
        pcm = audio.pcm[known * FLOAT_BYTES :]
        sent.samples += len(pcm) // FLOAT_BYTES
        self.audible.set()
        sent.complete = sent.complete or audio.last
        if pcm or audio.last:
            await self.parts.send(AudioPart(pcm, audio.last))


@dataclass(frozen=True)
class _End:
    """The call ended well."""
