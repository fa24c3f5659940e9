"""One utterance of the llm service: the engine on one side, the decode pool on the other.

The engine's tokens are passed on in hops (a decode worker can do nothing with half a chunk), the audio is relayed as
it comes. Ending the call, however it ends, frees the engine's slot within a step and the decode worker's at once.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from lighttts.v1 import audio_pb2, decode_pb2, llm_pb2, voice_pb2
from services.common.errors import InvalidInput, Overloaded, Unavailable
from services.common.mailbox import Mailbox, background
from services.common.modeldir import FlowConfig, ModelDir
from services.common.pool import Pool
from services.common.voice import Voice
from services.common.voice_cache import VoiceCache
from services.common.voice_message import from_message
from services.llm import decoding
from services.llm.engine import EngineClosed, EngineFull, Handle, LlmEngine
from services.llm.hops import HopPlan
from services.llm.layout import Prompt, RequestError
from services.llm.sequence import FailedEvent, Request, SamplingOptions, TokensEvent, check_request
from services.llm.settings import LlmSettings
from services.llm.watch import MovePolicy


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
        if start.HasField("resume"):
            raise InvalidInput("this worker cannot continue another one's utterance; start anew", field="start.resume")
        self._stage = stage
        self._start = start
        self._hops = _hop_plan(start, stage.model.flow)
        self._mailbox: Mailbox[_Event] = Mailbox()
        self._progress = _Progress()
        self._beat_at = time.monotonic() + stage.settings.heartbeat_seconds

    async def run(self, requests: AsyncIterator[llm_pb2.GenerateRequest]) -> AsyncGenerator[llm_pb2.GenerateResponse]:
        """Raises InvalidInput, Overloaded or Unavailable with what to do."""
        voices, voice_hash = self._stage.voices, self._start.voice_hash
        async with background(self._read(requests), self._mailbox):
            if voice_hash not in voices:
                yield llm_pb2.GenerateResponse(need_voice=audio_pb2.NeedVoice(voice_hash=voice_hash))
                async for beat in self._receive(lambda: voice_hash in voices):
                    yield beat
            with voices.lease(voice_hash) as voice:
                if voice is None:
                    raise Overloaded("the voice cache is full of voices in use; try again shortly")
                async for beat in self._receive(lambda: self._progress.text_complete):
                    yield beat
                if not self._progress.text:
                    raise InvalidInput("there is no text to speak", field="text")
                async with aclosing(self._speak(voice)) as responses:
                    async for response in responses:
                        yield response

    async def _read(self, requests: AsyncIterator[llm_pb2.GenerateRequest]) -> None:
        async for request in requests:
            match request.WhichOneof("request"):
                case "voice":
                    await self._mailbox.send(request.voice)
                case "text":
                    await self._mailbox.send(request.text)
                case "position":
                    await self._mailbox.send(request.position)
                case _:
                    raise InvalidInput("after start only voice, text and position may follow", field="request")
        await self._mailbox.send(_TextEnd())

    async def _take(self) -> _Event | None:
        """The next event; None when a sign of life is due, however many events there are."""
        wait = self._beat_at - time.monotonic()
        event = await self._mailbox.take(wait) if wait > 0 else None
        if event is None:
            self._beat_at = time.monotonic() + self._stage.settings.heartbeat_seconds
        return event

    async def _receive(self, complete: Callable[[], bool]) -> AsyncGenerator[llm_pb2.GenerateResponse]:
        """Collects voice and text until `complete`; yields signs of life meanwhile."""
        while not complete():
            event = await self._take()
            if isinstance(event, voice_pb2.VoiceContent):
                self._stage.voices.put(self._checked(event))
            elif isinstance(event, llm_pb2.TextTokens):
                self._add_text(event)
            elif isinstance(event, _TextEnd):
                if self._start.voice_hash not in self._stage.voices:
                    raise InvalidInput("the stream ended before the voice was sent", field="voice")
                self._progress.text_complete = True
            elif event is None:
                yield self._heartbeat()

    def _checked(self, content: voice_pb2.VoiceContent) -> Voice:
        """The voice that start names, fit for every later utterance that names it. Raises InvalidInput."""
        if content.voice_hash != self._start.voice_hash:
            raise InvalidInput("the voice sent is not the one that start names", field="voice.voice_hash")
        voice = from_message(content, self._stage.model_id)
        try:
            check_request(Request((), _prompt(voice)), self._stage.model.llm)
        except RequestError as error:
            raise InvalidInput(str(error), field="voice") from error
        return voice

    def _add_text(self, text: llm_pb2.TextTokens) -> None:
        progress, most = self._progress, self._stage.settings.max_request_tokens
        if progress.text_complete:
            raise InvalidInput("text followed the last text; send it as a new utterance", field="text")
        if len(progress.text) + len(text.ids) > most:
            raise InvalidInput(f"the text has more than {most} tokens; split it into utterances", field="text")
        progress.text.extend(text.ids)
        progress.text_complete = text.last

    async def _speak(self, voice: Voice) -> AsyncGenerator[llm_pb2.GenerateResponse]:
        handle = self._submit(voice)
        decode = self._decode_stream(voice)
        try:
            async with background(self._relay(decode), self._mailbox):
                spoken = False
                while not spoken:
                    event = await self._take()
                    if isinstance(event, TokensEvent):
                        self._pass_on(event, decode, voice)
                    elif isinstance(event, audio_pb2.PlaybackPosition):
                        decode.report_position(event.seconds)
                    elif isinstance(event, llm_pb2.TextTokens):
                        self._add_text(event)
                    elif isinstance(event, FailedEvent):
                        raise _meaning(event.error) from event.error
                    elif isinstance(event, decode_pb2.DecodedAudio):
                        yield self._audio(event, handle)
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
        request = Request(
            text_ids=tuple(self._progress.text),
            prompt=Prompt() if start.prompt_use == llm_pb2.PROMPT_USE_TIMBRE else _prompt(voice),
            sampling=SamplingOptions(
                seed=start.seed,
                temperature=options.temperature if options.HasField("temperature") else 1.0,
                top_p=options.top_p if options.HasField("top_p") else None,
                top_k=options.top_k if options.HasField("top_k") else None,
                ras=options.repetition_aware if options.HasField("repetition_aware") else True,
            ),
            max_seconds=min(options.max_seconds, settings.max_seconds)
            if options.HasField("max_seconds")
            else settings.max_seconds,
            max_tokens=self._ceiling(tokens_spoken=0),
        )
        try:
            return self._stage.engine.submit(request, self._mailbox.post)
        except (RequestError, EngineFull, EngineClosed) as error:
            raise _meaning(error) from error

    def _ceiling(self, tokens_spoken: int) -> int:
        """Raw ids the engine may have generated when `tokens_spoken` have become audio; never less than a hop more."""
        lead = int(self._stage.settings.lead_seconds * self._stage.model.token_rate)
        return tokens_spoken + max(lead, self._hops.longest)

    def _decode_stream(self, voice: Voice) -> decoding.DecodeStream:
        start, settings = self._start, self._stage.settings
        policy = MovePolicy(settings.decode_silence_seconds, settings.decode_stall_seconds, settings.decode_max_moves)
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
                # At the reader's pace: what waits here would hide from the decode worker that nobody reads.
                await self._mailbox.send(event)

    def _pass_on(self, event: TokensEvent, decode: decoding.DecodeStream, voice: Voice) -> None:
        """Collects tokens until they complete a chunk and its lookahead, or the utterance."""
        progress = self._progress
        if not progress.generated and event.raw_ids:
            progress.done.first_token = progress.since_start()
        progress.generated += len(event.ids)
        progress.raw += len(event.raw_ids)
        progress.unreported.extend(event.raw_ids)
        progress.unsent.extend(event.ids)
        if not event.last and progress.generated < self._hops.next(len(voice.speech_tokens), progress.sent):
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
            moved = llm_pb2.DecodeMoved(from_worker=event.from_worker, to_worker=event.to_worker, reason=event.reason)
            return llm_pb2.GenerateResponse(moved=moved)
        self._progress.done.decode_worker = event.worker
        started = llm_pb2.GenerateStarted(
            llm_worker=self._stage.settings.worker_name, decode_worker=event.worker, sample_rate=event.sample_rate
        )
        return llm_pb2.GenerateResponse(started=started)

    def _heartbeat(self) -> llm_pb2.GenerateResponse:
        state = audio_pb2.Heartbeat.STATE_RUNNING
        if not self._progress.text_complete:
            state = audio_pb2.Heartbeat.STATE_WAITING
        elif not self._progress.generated:
            state = audio_pb2.Heartbeat.STATE_QUEUED
        return llm_pb2.GenerateResponse(heartbeat=audio_pb2.Heartbeat(steps=self._stage.engine.steps, state=state))


def _prompt(voice: Voice) -> Prompt:
    return Prompt(tuple(voice.prompt_text_ids.tolist()), tuple(voice.speech_tokens.tolist()))


def _hop_plan(start: llm_pb2.GenerateStart, flow: FlowConfig) -> HopPlan:
    if not start.HasField("chunk_plan"):
        return HopPlan.default(flow)
    try:
        return HopPlan(start.chunk_plan.first_border, start.chunk_plan.chunk, flow.lookahead_tokens)
    except ValueError as error:
        raise InvalidInput(str(error), field="start.chunk_plan") from error


def _meaning(error: Exception) -> Exception:
    """What an engine's error means to a client; anything unforeseen is a defect and stays what it is."""
    match error:
        case RequestError():
            return InvalidInput(str(error))
        case EngineFull():
            return Overloaded(str(error))
        case EngineClosed():
            return Unavailable(str(error), retry_after=1.0)
        case _:
            return error
