"""One utterance of the llm service: the engine on one side, the decode pool on the other.

The engine's tokens are passed on in hops (a decode worker can do nothing with half a chunk), the audio is relayed as
it comes. Ending the call, however it ends, frees the engine's slot within a step and the decode worker's at once.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from lighttts.v1 import audio_pb2, decode_pb2, llm_pb2, voice_pb2
from services.common.checkpoint.model_dir import ModelDir
from services.common.engine.event_queue import EventQueue, background
from services.common.engine.shell import EngineClosed, EngineFull, FailedEvent
from services.common.errors import InvalidInput, Overloaded
from services.common.pool import Pool
from services.common.voices.cache import VoiceCache
from services.common.voices.message import from_message
from services.common.voices.voice import Voice
from services.common.workers.budget import FailoverBudget
from services.common.workers.failover import MovePolicy
from services.llm import metrics
from services.llm.engine.engine import Handle, LlmEngine
from services.llm.engine.layout import Prompt, RequestError, TextMissing
from services.llm.engine.sequence import Request, TokensEvent, check_request
from services.llm.settings import LlmSettings
from services.llm.stream import decode_client as decoding
from services.llm.stream import requests
from services.llm.stream.progress import Progress

_ORDERS = {"whole": llm_pb2.TEXT_ORDER_WHOLE, "interleaved": llm_pb2.TEXT_ORDER_INTERLEAVED}


@dataclass(frozen=True)
class LlmServiceContext:
    """What all utterances of one llm service share."""

    engine: LlmEngine
    pool: Pool
    voices: VoiceCache
    model: ModelDir
    model_id: str
    styles: tuple[str, ...]
    """Names, the default one first."""
    end_of_prompt: int | None
    settings: LlmSettings
    failover_budget: FailoverBudget = field(default_factory=FailoverBudget)
    clock: Callable[[], float] = time.monotonic
    """Seconds; measures the silence and the stalls of decode workers."""


@dataclass(frozen=True)
class _TextEnd:
    """The client half-closed."""


_Event = (
    voice_pb2.VoiceContent | llm_pb2.TextTokens | _TextEnd | audio_pb2.PlaybackPosition | TokensEvent | FailedEvent
) | decoding.Event


class GenerateCall:
    """One `Generate` call. `run` yields its responses and ends with the last audio and GenerateDone."""

    def __init__(self, stage: LlmServiceContext, start: llm_pb2.GenerateStart) -> None:
        requests.check_start(start, stage.model, stage.styles)
        self._stage = stage
        self._start = start
        self._mailbox: EventQueue[_Event] = EventQueue()
        self._progress = Progress(
            requests.hop_plan(start, stage.model.flow), stage.model.token_rate * requests.speed_of(start)
        )
        self._order: requests.TextOrder = "whole"
        self._tried_with = 0
        """Text ids with which a resume was tried in vain."""
        self._beat_at = time.monotonic() + stage.settings.heartbeat_seconds

    async def run(self, inputs: AsyncIterator[llm_pb2.GenerateRequest]) -> AsyncGenerator[llm_pb2.GenerateResponse]:
        """Raises InvalidInput, Overloaded or Unavailable with what to do."""
        try:
            async with background(self._read(inputs), self._mailbox), aclosing(self._serve()) as responses:
                async for response in responses:
                    yield response
        except (asyncio.CancelledError, GeneratorExit):
            metrics.CANCELLED.labels(self._progress.phase).inc()
            raise

    async def _serve(self) -> AsyncGenerator[llm_pb2.GenerateResponse]:
        voices, voice_hash = self._stage.voices, self._start.voice_hash
        if self._start.HasField("text"):
            self._add_text(self._start.text)
        if voice_hash not in voices:
            yield llm_pb2.GenerateResponse(need_voice=audio_pb2.NeedVoice(voice_hash=voice_hash))
            async for beat in self._receive(lambda: voice_hash in voices):
                yield beat
        with voices.lease(voice_hash) as voice:
            if voice is None:
                raise Overloaded("the voice cache is full of voices in use; try again shortly")
            handle: Handle | None = None
            while handle is None:
                async for beat in self._receive(self._enough_text):
                    yield beat
                handle = self._submit(voice)
            async with aclosing(self._speak(voice, handle)) as responses:
                async for response in responses:
                    yield response

    async def _read(self, inputs: AsyncIterator[llm_pb2.GenerateRequest]) -> None:
        async for request in inputs:
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
        prompt = Prompt(tuple(voice.prompt_text_ids.tolist()), tuple(voice.speech_tokens.tolist()))
        try:
            check_request(Request((), prompt), self._stage.model.llm)
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

    def _enough_text(self) -> bool:
        progress = self._progress
        early = requests.may_interleave(self._start, self._stage.model)
        return progress.text_complete or (early and len(progress.text) > self._tried_with)

    def _submit(self, voice: Voice) -> Handle | None:
        """Hands the utterance to the engine; None when what is to be resumed needs more text than has come."""
        start, stage, progress = self._start, self._stage, self._progress
        if not progress.text:
            raise InvalidInput("there is no text to speak", field="text")
        raw_ids = tuple(start.resume.raw_ids)
        self._order = requests.text_order(start, stage.model, text_complete=progress.text_complete)
        request = Request(
            text_ids=tuple(progress.text),
            prompt=requests.prompt_of(start, voice, self._order, stage.end_of_prompt),
            sampling=requests.sampling_of(start),
            text_complete=progress.text_complete,
            text_order=self._order,
            resume_ids=raw_ids,
            max_seconds=requests.longest_seconds(start, stage.settings),
            max_tokens=self._ceiling(len(raw_ids)),
            play_at=progress.started_at + requests.first_audio_after(start, stage.settings),
            speed=requests.speed_of(start),
            style=requests.engine_style(start),
        )
        try:
            handle = stage.engine.submit(request, self._mailbox.post)
        except TextMissing as error:
            if progress.text_complete:
                raise InvalidInput(str(error), field="start.resume.raw_ids") from error
            self._tried_with = len(progress.text)
            return None
        except (RequestError, EngineFull, EngineClosed) as error:
            raise requests.meaning(error) from error
        progress.submitted_at = time.monotonic()
        progress.resume(len(raw_ids), handle.resumed)
        return handle

    def _ceiling(self, raw_ids_spoken: int) -> int:
        """Raw ids the engine may have generated when so many have become audio; never less than a hop more."""
        lead = int(self._stage.settings.lead_seconds * self._progress.token_rate)
        return raw_ids_spoken + max(lead, self._progress.hops.longest)

    async def _speak(self, voice: Voice, handle: Handle) -> AsyncGenerator[llm_pb2.GenerateResponse]:
        decode = self._decode_stream(voice)
        self._pass_on(decode, voice)
        try:
            async with background(self._relay(decode), self._mailbox):
                spoken = False
                while not spoken:
                    event = await self._take()
                    if isinstance(event, decode_pb2.DecodedAudio):
                        yield self._audio(event, handle)
                        spoken = event.audio.last
                    elif isinstance(event, decoding.Started | decoding.Moved):
                        yield self._news(event)
                    elif event is None:
                        yield self._heartbeat()
                    else:
                        self._advance(event, handle, decode, voice)
                yield llm_pb2.GenerateResponse(done=self._progress.done)
        finally:
            self._stage.engine.cancel(handle)

    def _advance(self, event: _Event, handle: Handle, decode: decoding.DecodeStream, voice: Voice) -> None:
        """Takes what needs no answer: tokens, more text, the listener's position."""
        if isinstance(event, TokensEvent):
            self._progress.take(event)
            self._pass_on(decode, voice)
        elif isinstance(event, FailedEvent):
            raise requests.meaning(event.error) from event.error
        elif isinstance(event, llm_pb2.TextTokens):
            self._add_text(event)
            self._pass_text(handle, tuple(event.ids))
        elif isinstance(event, _TextEnd) and not self._progress.text_complete:
            self._progress.text_complete = True
            self._pass_text(handle, ())
        elif isinstance(event, audio_pb2.PlaybackPosition):
            self._listener_at(event.seconds, handle)
            decode.report_position(event.seconds)

    def _pass_text(self, handle: Handle, ids: tuple[int, ...]) -> None:
        engine = self._stage.engine
        try:
            engine.append_text(handle, ids)
        except RequestError as error:
            raise requests.meaning(error) from error
        if self._progress.text_complete:
            engine.end_text(handle)

    def _pass_on(self, decode: decoding.DecodeStream, voice: Voice) -> None:
        hop = self._progress.next_hop(len(voice.speech_tokens))
        if hop is not None:
            decode.push(hop, last=self._progress.ended)

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
        resume = start.resume
        return decoding.DecodeStream(
            self._stage.pool,
            message,
            voice,
            self._stage.model_id,
            policy,
            record=resume.decode_record,
            next_sample=resume.next_sample,
            failover_budget=self._stage.failover_budget,
            clock=self._stage.clock,
        )

    async def _relay(self, decode: decoding.DecodeStream) -> None:
        async with aclosing(decode.events()) as events:
            async for event in events:
                # At the reader's pace: what waits here would hide from the decode worker that nobody reads.
                await self._mailbox.send(event)

    def _audio(self, decoded: decode_pb2.DecodedAudio, handle: Handle) -> llm_pb2.GenerateResponse:
        progress, engine = self._progress, self._stage.engine
        first = progress.heard_from is None
        audio = progress.heard(decoded)
        if first and progress.heard_from is not None and not requests.offline(self._start):
            engine.set_play_at(handle, progress.heard_from)
        silent = progress.raw - progress.generated
        engine.set_max_tokens(handle, self._ceiling(decoded.tokens_spoken + silent))
        return llm_pb2.GenerateResponse(audio=audio)

    def _listener_at(self, seconds: float, handle: Handle) -> None:
        """Deadlines follow the listener rather than the clock once they say where they are."""
        if not math.isfinite(seconds):
            raise InvalidInput(f"position {seconds} is not a number of seconds", field="position.seconds")
        if self._progress.heard_from is not None and not requests.offline(self._start):
            self._progress.heard_from = time.monotonic() - seconds
            self._stage.engine.set_play_at(handle, self._progress.heard_from)

    def _news(self, event: decoding.Started | decoding.Moved) -> llm_pb2.GenerateResponse:
        if isinstance(event, decoding.Moved):
            moved = llm_pb2.DecodeMoved(from_worker=event.from_worker, to_worker=event.to_worker, reason=event.reason)
            return llm_pb2.GenerateResponse(moved=moved)
        self._progress.done.decode_worker = event.worker
        started = llm_pb2.GenerateStarted(
            llm_worker=self._stage.settings.worker_name,
            decode_worker=event.worker,
            sample_rate=event.sample_rate,
            text_order=_ORDERS[self._order],
        )
        return llm_pb2.GenerateResponse(started=started)

    def _heartbeat(self) -> llm_pb2.GenerateResponse:
        state = audio_pb2.Heartbeat.STATE_RUNNING
        if not self._progress.text_complete:
            state = audio_pb2.Heartbeat.STATE_WAITING
        elif not self._progress.generated:
            state = audio_pb2.Heartbeat.STATE_QUEUED
        return llm_pb2.GenerateResponse(heartbeat=audio_pb2.Heartbeat(steps=self._stage.engine.steps, state=state))
