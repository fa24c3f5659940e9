"""One utterance of the llm service: the engine on one side, the decode pool on the other.

The engine's tokens are passed on in hops (a decode worker can do nothing with half a chunk), the audio is relayed as
it comes. Ending the call, however it ends, frees the engine's slot within a step and the decode worker's at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field

from lighttts.v1 import audio_pb2, decode_pb2, llm_pb2, voice_pb2
from services.common.errors import Internal, InvalidInput, LightTtsError, Overloaded, Unavailable
from services.common.mailbox import Mailbox, background
from services.common.modeldir import ModelDir
from services.common.pool import Pool
from services.common.voice import Voice
from services.common.voice_cache import VoiceCache
from services.common.voice_message import from_message
from services.llm import decoding
from services.llm.engine import EngineClosed, EngineFull, Handle, LlmEngine
from services.llm.layout import Prompt, RequestError
from services.llm.sequence import FailedEvent, Request, SamplingOptions, TokensEvent
from services.llm.settings import LlmSettings

RELAY_WINDOW = 4
"""Audio messages that may wait for a slow reader; more would hide from the decode worker that nobody reads."""


@dataclass(frozen=True)
class Stage:
    """What all utterances of one llm service share."""

    engine: LlmEngine
    pool: Pool
    voices: VoiceCache
    model: ModelDir
    model_id: str
    settings: LlmSettings


@dataclass(frozen=True)
class _TextEnd:
    """The client half-closed."""


_Event = (
    voice_pb2.VoiceContent | llm_pb2.TextTokens | _TextEnd | audio_pb2.PlaybackPosition | TokensEvent | FailedEvent
) | decoding.Event


@dataclass
class _Progress:
    """What the utterance has come to."""

    started_at: float = field(default_factory=time.monotonic)
    text: list[int] = field(default_factory=list)
    text_complete: bool = False
    unsent: list[int] = field(default_factory=list)
    """Speech tokens not yet passed on to the decode stage."""
    sent: int = 0
    unreported: list[int] = field(default_factory=list)
    """Raw ids the gateway has not been told of."""
    generated: int = 0
    raw: int = 0
    done: llm_pb2.GenerateDone = field(default_factory=llm_pb2.GenerateDone)

    def since_start(self) -> float:
        return time.monotonic() - self.started_at


class Utterance:
    """One `Generate` call. `run` yields its responses and ends with the last audio and GenerateDone."""

    def __init__(self, stage: Stage, start: llm_pb2.GenerateStart) -> None:
        if not start.voice_hash:
            raise InvalidInput("start names no voice", field="start.voice_hash")
        if start.style:
            raise InvalidInput(f"there is no style {start.style!r}; leave it empty", field="start.style")
        self._stage = stage
        self._start = start
        self._mailbox: Mailbox[_Event] = Mailbox()
        self._window = asyncio.Semaphore(RELAY_WINDOW)
        self._progress = _Progress()

    async def run(self, requests: AsyncIterator[llm_pb2.GenerateRequest]) -> AsyncGenerator[llm_pb2.GenerateResponse]:
        """Raises InvalidInput, Overloaded or Unavailable with what to do."""
        async with background(self._read(requests), self._mailbox):
            voices = self._stage.voices
            if self._start.voice_hash not in voices:
                need = audio_pb2.NeedVoice(voice_hash=self._start.voice_hash)
                yield llm_pb2.GenerateResponse(need_voice=need)
                voices.put(await self._voice_content())
            with voices.lease(self._start.voice_hash) as voice:
                if voice is None:
                    raise Overloaded("the voice cache is full of voices in use; try again shortly")
                await self._whole_text()
                async with aclosing(self._speak(voice)) as responses:
                    async for response in responses:
                        yield response

    async def _read(self, requests: AsyncIterator[llm_pb2.GenerateRequest]) -> None:
        async for request in requests:
            match request.WhichOneof("request"):
                case "voice":
                    self._mailbox.post(request.voice)
                case "text":
                    self._mailbox.post(request.text)
                case "position":
                    self._mailbox.post(request.position)
                case _:
                    raise InvalidInput("after start only voice, text and position may follow", field="request")
        self._mailbox.post(_TextEnd())

    async def _voice_content(self) -> Voice:
        while True:
            event = await self._mailbox.take()
            if isinstance(event, voice_pb2.VoiceContent):
                if event.voice_hash != self._start.voice_hash:
                    raise InvalidInput("the voice sent is not the one that start names", field="voice.voice_hash")
                return from_message(event, self._stage.model_id)
            self._note_text(event)
            if isinstance(event, _TextEnd):
                raise InvalidInput("the stream ended before the voice was sent", field="voice")

    async def _whole_text(self) -> None:
        while not self._progress.text_complete:
            self._note_text(await self._mailbox.take())
        if not self._progress.text:
            raise InvalidInput("there is no text to speak", field="text")

    def _note_text(self, event: _Event | None) -> None:
        if isinstance(event, llm_pb2.TextTokens):
            if self._progress.text_complete:
                raise InvalidInput("text followed the last text", field="text")
            self._progress.text.extend(event.ids)
            self._progress.text_complete = event.last
        elif isinstance(event, _TextEnd):
            self._progress.text_complete = True

    async def _speak(self, voice: Voice) -> AsyncGenerator[llm_pb2.GenerateResponse]:
        handle = self._submit(voice)
        decode = self._decode_stream(voice)
        try:
            async with background(self._relay(decode), self._mailbox):
                spoken = False
                while not spoken:
                    event = await self._mailbox.take(self._stage.settings.heartbeat_seconds)
                    if isinstance(event, TokensEvent):
                        self._pass_on(event, decode, voice)
                    elif isinstance(event, audio_pb2.PlaybackPosition):
                        decode.report_position(event.seconds)
                    elif isinstance(event, FailedEvent):
                        raise _meaning(event.error) from event.error
                    elif isinstance(event, decode_pb2.DecodedAudio):
                        yield self._audio(event, handle)
                        self._window.release()
                        spoken = event.audio.last
                    elif isinstance(event, decoding.Started | decoding.Moved):
                        yield self._news(event)
                    elif event is None:
                        yield self._heartbeat()
                yield llm_pb2.GenerateResponse(done=self._progress.done)
        finally:
            self._stage.engine.cancel(handle)

    def _submit(self, voice: Voice) -> Handle:
        start, settings = self._start, self._stage.settings
        options = start.sampling
        prompt = Prompt()
        if start.prompt_use != llm_pb2.PROMPT_USE_TIMBRE:
            prompt = Prompt(tuple(voice.prompt_text_ids.tolist()), tuple(voice.speech_tokens.tolist()))
        request = Request(
            text_ids=tuple(self._progress.text),
            prompt=prompt,
            sampling=SamplingOptions(
                seed=start.seed,
                temperature=options.temperature if options.HasField("temperature") else 1.0,
                top_p=options.top_p if options.HasField("top_p") else None,
                top_k=options.top_k if options.HasField("top_k") else None,
                ras=options.repetition_aware if options.HasField("repetition_aware") else True,
            ),
            max_seconds=min(options.max_seconds or settings.max_seconds, settings.max_seconds),
            max_tokens=self._ceiling(tokens_spoken=0),
            resume_ids=tuple(start.resume.raw_ids),
        )
        try:
            return self._stage.engine.submit(request, self._mailbox.post)
        except (RequestError, EngineFull, EngineClosed) as error:
            raise _meaning(error) from error

    def _ceiling(self, tokens_spoken: int) -> int:
        """Raw ids the engine may have generated when `tokens_spoken` have become audio."""
        return tokens_spoken + int(self._stage.settings.lead_seconds * self._stage.model.token_rate)

    def _decode_stream(self, voice: Voice) -> decoding.DecodeStream:
        start, settings = self._start, self._stage.settings
        policy = decoding.MovePolicy(
            settings.decode_silence_seconds, settings.decode_stall_seconds, settings.decode_max_moves
        )
        message = decode_pb2.DecodeStart(
            request_id=start.request_id,
            voice_hash=start.voice_hash,
            seed=start.seed,
            chunk_plan=start.chunk_plan if start.HasField("chunk_plan") else None,
            urgency=start.urgency,
            speed=start.speed,
            full_attention_last_chunk=start.full_attention_last_chunk,
        )
        return decoding.DecodeStream(self._stage.pool, message, voice, self._stage.model_id, policy)

    async def _relay(self, decode: decoding.DecodeStream) -> None:
        async with aclosing(decode.events()) as events:
            async for event in events:
                if isinstance(event, decode_pb2.DecodedAudio):
                    await self._window.acquire()
                self._mailbox.post(event)

    def _pass_on(self, event: TokensEvent, decode: decoding.DecodeStream, voice: Voice) -> None:
        """Collects tokens until they complete a chunk and its lookahead, or the utterance."""
        progress = self._progress
        if not progress.generated and event.raw_ids:
            progress.done.first_token = progress.since_start()
        progress.generated += len(event.ids)
        progress.raw += len(event.raw_ids)
        progress.unreported.extend(event.raw_ids)
        progress.unsent.extend(event.ids)
        if not event.last and progress.generated < self._next_hop(len(voice.speech_tokens)):
            return
        if not progress.sent:
            progress.done.first_hop = progress.since_start()
        if event.last:
            stopped = event.finish_reason == "stop"
            reason = llm_pb2.GenerateDone.REASON_STOP if stopped else llm_pb2.GenerateDone.REASON_LENGTH
            progress.done.reason = reason
            progress.done.speech_tokens = progress.generated
        decode.push(progress.unsent, last=event.last)
        progress.sent += len(progress.unsent)
        progress.unsent.clear()

    def _next_hop(self, prompt_tokens: int) -> int:
        """Tokens that complete the chunk under way, borders being multiples of the chunk, prompt included."""
        flow = self._stage.model.flow
        spoken = max(0, self._progress.sent - flow.lookahead_tokens)
        border = (prompt_tokens + spoken) // flow.chunk_tokens + 1
        return border * flow.chunk_tokens - prompt_tokens + flow.lookahead_tokens

    def _audio(self, decoded: decode_pb2.DecodedAudio, handle: Handle) -> llm_pb2.GenerateResponse:
        progress = self._progress
        if not progress.done.first_audio:
            progress.done.first_audio = progress.since_start()
        silent = progress.raw - progress.generated
        self._stage.engine.set_max_tokens(handle, self._ceiling(decoded.tokens_spoken + silent))
        audio = llm_pb2.GeneratedAudio(
            audio=decoded.audio,
            decode_record=decoded.resume_record,
            raw_ids=progress.unreported,
            tokens_generated=progress.generated,
            tokens_spoken=decoded.tokens_spoken,
        )
        progress.unreported.clear()
        return llm_pb2.GenerateResponse(audio=audio)

    def _news(self, event: decoding.Started | decoding.Moved) -> llm_pb2.GenerateResponse:
        if isinstance(event, decoding.Moved):
            moved = llm_pb2.DecodeMoved(from_worker=event.from_worker, reason=event.reason)
            return llm_pb2.GenerateResponse(moved=moved)
        self._progress.done.decode_worker = event.worker
        started = llm_pb2.GenerateStarted(
            llm_worker=self._stage.settings.worker_name, decode_worker=event.worker, sample_rate=event.sample_rate
        )
        return llm_pb2.GenerateResponse(started=started)

    def _heartbeat(self) -> llm_pb2.GenerateResponse:
        running = self._progress.generated > 0
        state = audio_pb2.Heartbeat.STATE_RUNNING if running else audio_pb2.Heartbeat.STATE_QUEUED
        return llm_pb2.GenerateResponse(heartbeat=audio_pb2.Heartbeat(steps=self._stage.engine.steps, state=state))


def _meaning(error: Exception) -> LightTtsError:
    """What an engine's error means to a client."""
    match error:
        case RequestError():
            return InvalidInput(str(error))
        case EngineFull():
            return Overloaded(str(error))
        case EngineClosed():
            return Unavailable(str(error))
        case _:
            return Internal(f"generation failed: {error}")
