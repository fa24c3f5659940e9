"""One `Decode` call: translates between its gRPC messages and an engine stream."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field, replace

import structlog

from lighttts.v1 import audio_pb2, decode_pb2, voice_pb2
from services.common import tracing
from services.common.checkpoint.chunk_plan import ChunkPlan
from services.common.checkpoint.flow_config import FlowConfig
from services.common.engine.event_queue import EventQueue, background
from services.common.engine.places import Place
from services.common.engine.shell import EngineClosed, EngineFull, FailedEvent
from services.common.errors import Internal, InvalidInput, LightTtsError, Overloaded, StateMismatch, Unavailable
from services.common.voices.cache import VoiceCache
from services.common.voices.message import from_message
from services.common.voices.voice import Voice
from services.common.watermark.embed import Watermark
from services.decode.engine.engine import DecodeEngine, Handle
from services.decode.engine.events import AudioEvent
from services.decode.engine.hops import HopPolicy
from services.decode.engine.state import RecordMismatch, StreamError, StreamSpec
from services.decode.settings import DecodeSettings

log = structlog.get_logger(__name__)

MAX_EARLY_MESSAGES = 64
"""Token messages buffered until the voice arrives; a client that never sends it must not fill the memory."""


@dataclass(frozen=True)
class DecodeServiceContext:
    """Dependencies that all calls of one decode worker share."""

    engine: DecodeEngine
    voices: VoiceCache
    model_id: str
    flow: FlowConfig
    plan: ChunkPlan
    """The checkpoint's chunk plan, for requests without one."""
    sample_rate: int
    settings: DecodeSettings
    watermark: Watermark | None = None
    """What marks the audio; None for nothing."""
    engine_clock: Callable[[], float] = time.monotonic
    """The clock of the engine, whose deadlines are times of it."""
    hops: HopPolicy = field(default_factory=HopPolicy)
    """How far streams decode at a time; a simulation compares others."""


@dataclass(frozen=True)
class _TokensEnd:
    """The client closed its side of the stream."""


@dataclass(frozen=True)
class _HandOver:
    """The worker is draining."""


_Event = (
    voice_pb2.VoiceContent
    | decode_pb2.SpeechTokens
    | audio_pb2.PlaybackPosition
    | AudioEvent
    | FailedEvent
    | _TokensEnd
    | _HandOver
)


@dataclass
class _Received:
    """Number of tokens received, and token messages received before the engine stream was opened."""

    count: int = 0
    ended: bool = False
    early: list[decode_pb2.SpeechTokens] = field(default_factory=list)


class DecodeCall:
    """Serves one utterance; `run` yields its responses and ends after the last audio."""

    def __init__(self, context: DecodeServiceContext, start: decode_pb2.DecodeStart) -> None:
        if not start.voice_hash:
            raise InvalidInput("start names no voice", field="start.voice_hash")
        self._context = context
        self._start = start
        self._events: EventQueue[_Event] = EventQueue()
        self._received = _Received()
        self._drained_early = False
        """Whether the worker began to drain while the voice was awaited."""
        self._sequence = 0

    def hand_over(self) -> None:
        """Ask the client to continue on another worker; this one serves it until it leaves."""
        self._events.post(_HandOver())

    async def run(self, requests: AsyncIterator[decode_pb2.DecodeRequest]) -> AsyncGenerator[decode_pb2.DecodeResponse]:
        """Yield the responses. Raises InvalidInput, Overloaded or Unavailable with advice in the message."""
        voices = self._context.voices
        async with background(self._read(requests), self._events):
            if self._start.voice_hash not in voices:
                need = audio_pb2.NeedVoice(voice_hash=self._start.voice_hash)
                yield decode_pb2.DecodeResponse(need_voice=need)
                voices.put(await self._voice_content())
            with voices.lease(self._start.voice_hash) as voice:
                if voice is None:
                    raise Overloaded(
                        "the decode worker's voice cache is full of voices in use; try again shortly", stage="decode"
                    )
                handle = self._open(voice)
                try:
                    yield self._started()
                    if self._drained_early:
                        self.hand_over()
                    for tokens in self._received.early:
                        self._push(handle, tokens)
                    async for response in self._responses(handle):
                        yield response
                finally:
                    self._context.engine.cancel(handle)

    async def _read(self, requests: AsyncIterator[decode_pb2.DecodeRequest]) -> None:
        async for request in requests:
            match request.WhichOneof("request"):
                case "voice":
                    await self._events.send(request.voice)
                case "tokens":
                    await self._events.send(request.tokens)
                case "position":
                    await self._events.send(request.position)
                case _:
                    raise InvalidInput("after start only voice, tokens and position may follow", field="request")
        await self._events.send(_TokensEnd())

    async def _voice_content(self) -> Voice:
        while True:
            event = await self._events.take()
            if isinstance(event, voice_pb2.VoiceContent):
                if event.voice_hash != self._start.voice_hash:
                    raise InvalidInput("the voice sent is not the one that start names", field="voice.voice_hash")
                return from_message(event, self._context.model_id, self._context.flow)
            if isinstance(event, decode_pb2.SpeechTokens):
                if len(self._received.early) >= MAX_EARLY_MESSAGES:
                    raise InvalidInput("send the requested voice before more tokens", field="voice")
                self._received.early.append(event)
            elif isinstance(event, _TokensEnd):
                raise InvalidInput("the stream ended before the voice was sent", field="voice")
            elif isinstance(event, _HandOver):
                self._drained_early = True

    def _open(self, voice: Voice) -> Handle:
        start, settings, hops = self._start, self._context.settings, self._context.hops
        target = start.urgency.first_audio_target or settings.first_audio_target_seconds
        if not 0 <= target < math.inf:
            raise InvalidInput(
                f"the target is {target:g}; it must be a number of seconds, 0 for the default",
                field="start.urgency.first_audio_target",
            )
        deadline = self._context.engine_clock() + target
        # A later utterance of a session has a target of its own only while earlier audio plays.
        follows = start.place.admitted and start.urgency.first_audio_target > 0 and not start.resume_record
        try:
            plan = self._context.plan
            if start.HasField("chunk_plan"):
                plan = ChunkPlan(start.chunk_plan.first_border, start.chunk_plan.chunk)
            spec = StreamSpec(
                prompt_tokens=voice.speech_tokens,
                prompt_mel=voice.mel,
                embedding=voice.embedding,
                voice=voice.hash,
                seed=start.seed,
                plan=plan,
                full_attention_last=start.full_attention_last_chunk,
                speed=start.speed or 1.0,
                resume=start.resume_record,
                deadline=deadline,
                play_at=deadline if follows else None,
                offline=start.urgency.priority == audio_pb2.Urgency.PRIORITY_OFFLINE,
                max_unread_s=settings.max_unread_seconds,
                place=Place(start.place.session, start.place.admitted or bool(start.resume_record)),
                hops=replace(hops, sizes=(plan.chunk_tokens,)) if settings.decode_fixed_hops else hops,
            )
            return self._context.engine.open(spec, self._events.post)
        except RecordMismatch as error:
            raise StateMismatch(str(error), retry_after=1.0) from error
        except ValueError as error:  # of the request's values: the chunk plan, the speed, the record
            raise InvalidInput(str(error)) from error
        except (EngineFull, EngineClosed) as error:
            raise _client_error(error) from error

    def _started(self) -> decode_pb2.DecodeResponse:
        worker = self._context.settings.worker_name
        started = decode_pb2.DecodeStarted(worker=worker, sample_rate=self._context.sample_rate)
        return decode_pb2.DecodeResponse(started=started)

    async def _responses(self, handle: Handle) -> AsyncGenerator[decode_pb2.DecodeResponse]:
        while True:
            event = await self._events.take(self._context.settings.heartbeat_seconds)
            match event:
                case AudioEvent():
                    yield await self._audio(event)
                    if event.last:
                        return
                    # gRPC's flow control accepted the message, so the reader keeps up.
                    self._context.engine.acknowledge(handle, event.first_sample + len(event.samples))
                case decode_pb2.SpeechTokens():
                    self._push(handle, event)
                case audio_pb2.PlaybackPosition():
                    if not math.isfinite(event.seconds):
                        raise InvalidInput(
                            f"position {event.seconds} is not a number of seconds", field="position.seconds"
                        )
                    self._context.engine.report_position(handle, event.seconds)
                case FailedEvent():
                    raise _client_error(event.error) from event.error
                case _TokensEnd():
                    if not self._received.ended:
                        raise InvalidInput("the stream ended before its last tokens", field="tokens.last")
                case _HandOver():
                    yield decode_pb2.DecodeResponse(hand_over=decode_pb2.HandOver(reason="this worker is draining"))
                case None:
                    yield self._heartbeat()

    def _push(self, handle: Handle, tokens: decode_pb2.SpeechTokens) -> None:
        received = self._received
        if tokens.first_index != received.count:
            message = f"tokens begin at {tokens.first_index}, expected {received.count}: send all tokens in order"
            raise InvalidInput(message, field="tokens.first_index")
        received.count += len(tokens.ids)
        received.ended = received.ended or tokens.last
        self._context.engine.push(handle, tokens.ids, tokens.last)

    async def _audio(self, event: AudioEvent) -> decode_pb2.DecodeResponse:
        samples, mark = event.samples, self._context.watermark
        if mark is not None:  # in a thread: it takes some milliseconds per second of audio
            samples = await asyncio.to_thread(mark.apply, event.first_sample, samples)
        response = decode_pb2.DecodeResponse()
        decoded = response.audio  # filled in place: a message as an argument of another one is copied several times
        decoded.resume_record, decoded.tokens_spoken = event.resume, event.tokens_spoken
        audio = decoded.audio
        audio.sequence, audio.first_sample = self._sequence, event.first_sample
        audio.pcm = samples.astype("<f4", copy=False).tobytes()
        audio.format, audio.sample_rate = audio_pb2.SAMPLE_FORMAT_F32LE, self._context.sample_rate
        audio.last = event.last
        if not self._sequence:
            tracing.event("first audio")
        self._sequence += 1
        return response

    def _heartbeat(self) -> decode_pb2.DecodeResponse:
        state = audio_pb2.Heartbeat.STATE_RUNNING if self._sequence else audio_pb2.Heartbeat.STATE_QUEUED
        return decode_pb2.DecodeResponse(heartbeat=audio_pb2.Heartbeat(steps=self._context.engine.steps, state=state))


def _client_error(error: Exception) -> LightTtsError:
    """Return the error for the client that corresponds to an engine's error."""
    match error:
        case StreamError():
            return InvalidInput(str(error))
        case EngineFull():
            return Overloaded(str(error), stage="decode")
        case EngineClosed():
            return Unavailable(str(error))
        case _:
            log.error("decoding failed", error=repr(error), exc_info=error)
            return Internal("decoding failed; the server's log has the details under this request")
