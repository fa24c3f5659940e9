"""One utterance of the llm service: the engine on one side, the decode pool on the other.

The engine's tokens are sent in hops (a decode worker cannot decode a part of a chunk); the audio is relayed at once.
The end of the call, for any reason, frees the engine's resources within a step and the decode worker's at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

from lighttts.v1 import audio_pb2, decode_pb2, llm_pb2, voice_pb2
from services.common.checkpoint.model_dir import ModelDir
from services.common.engine.event_queue import EventQueue, background
from services.common.engine.shell import EngineClosed, EngineFull, FailedEvent
from services.common.errors import InvalidInput, Overloaded
from services.common.pool import Pool
from services.common.voices.cache import VoiceCache
from services.common.voices.voice import Voice
from services.common.workers.budget import FailoverBudget
from services.common.workers.failover import MovePolicy
from services.llm import metrics
from services.llm.engine.engine import Handle, LlmEngine
from services.llm.engine.layout import RequestError, TextMissing
from services.llm.engine.sequence import Request
from services.llm.settings import LlmSettings
from services.llm.stream import decode_client, requests
from services.llm.stream.progress import Progress
from services.llm.stream.token_inbox import TokenInbox, TokensReady

_ORDERS = {"whole": llm_pb2.TEXT_ORDER_WHOLE, "interleaved": llm_pb2.TEXT_ORDER_INTERLEAVED}


@dataclass(frozen=True)
class LlmServiceContext:
    """Dependencies that all calls of one llm service share."""

    engine: LlmEngine
    pool: Pool
    voices: VoiceCache
    model: ModelDir
    model_id: str
    styles: tuple[str, ...]
    """Names, the default one first."""
    origins: Mapping[str, bytes]
    """By style: the version of its raw ids, one byte, and the hash of its weights."""
    end_of_prompt: int | None
    settings: LlmSettings
    failover_budget: FailoverBudget = field(default_factory=FailoverBudget)
    clock: Callable[[], float] = time.monotonic
    """Seconds; measures the silence and the stalls of decode workers."""
    engine_clock: Callable[[], float] = time.monotonic
    """The clock of the engine, whose deadlines are times of it."""


@dataclass(frozen=True)
class _TextEnd:
    """The client half-closed."""


_Event = (
    voice_pb2.VoiceContent | llm_pb2.TextTokens | _TextEnd | audio_pb2.PlaybackPosition | TokensReady | FailedEvent
) | decode_client.Event


class GenerateCall:
    """One `Generate` call. `run` yields its responses and ends with the last audio and GenerateDone."""

    def __init__(self, context: LlmServiceContext, start: llm_pb2.GenerateStart) -> None:
        requests.check_start(start, context.model, context.styles)
        # A conversion's tokens come with the request, from no weights of this service.
        self._origin = b"" if start.speech_tokens else context.origins[start.style or context.styles[0]]
        requests.check_origin(start.resume, self._origin)
        self._context = context
        self._start = start
        self._events: EventQueue[_Event] = EventQueue()
        self._inbox = TokenInbox(self._events.post)
        self._progress = Progress(
            requests.hop_plan(start, context.model.flow),
            context.model.token_rate * requests.speed_of(start),
            context.engine.aligns and requests.text_position(start) is not None and not start.speech_tokens,
            context.engine_clock,
        )
        # Earlier audio of the session plays until then; of a resumed utterance, audio has been played.
        if start.place.admitted and not start.HasField("resume"):
            self._progress.plays_from = self._progress.started_at + start.urgency.first_audio_target
        self._order: requests.TextOrder = "whole"
        self._voice_sent = False
        """Whether the client has sent the voice: a full cache may not have kept it."""
        self._resume_tried_with = 0
        """Number of text ids at the last resume that needed more text."""
        self._put_off_heartbeat()

    async def run(self, inputs: AsyncIterator[llm_pb2.GenerateRequest]) -> AsyncGenerator[llm_pb2.GenerateResponse]:
        """Raises InvalidInput, Overloaded or Unavailable; the message says what to do."""
        try:
            async with background(self._read(inputs), self._events), aclosing(self._serve()) as responses:
                async for response in responses:
                    yield response
        except (asyncio.CancelledError, GeneratorExit):
            metrics.CANCELLED.labels(self._progress.phase).inc()
            raise

    async def _serve(self) -> AsyncGenerator[llm_pb2.GenerateResponse]:
        voices, voice_hash = self._context.voices, self._start.voice_hash
        if self._start.HasField("text"):
            self._add_text(self._start.text)
        if voice_hash not in voices:
            yield llm_pb2.GenerateResponse(need_voice=audio_pb2.NeedVoice(voice_hash=voice_hash))
            async for heartbeat in self._collect(self._has_voice):
                yield heartbeat
        with voices.lease(voice_hash) as voice:
            if voice is None:
                raise Overloaded("the llm's voice cache is full of voices in use; try again shortly", stage="llm")
            handle: Handle | None = None
            while handle is None:
                async for heartbeat in self._collect(self._enough_text):
                    yield heartbeat
                handle = self._submit(voice)
            async with aclosing(self._speak(voice, handle)) as responses:
                async for response in responses:
                    yield response

    async def _read(self, inputs: AsyncIterator[llm_pb2.GenerateRequest]) -> None:
        async for request in inputs:
            match request.WhichOneof("request"):
                case "voice":
                    await self._events.send(request.voice)
                case "text":
                    await self._events.send(request.text)
                case "position":
                    await self._events.send(request.position)
                case _:
                    raise InvalidInput("after start only voice, text and position may follow", field="request")
        await self._events.send(_TextEnd())

    async def _next_event(self) -> _Event | None:
        """Return the next event, or None if a heartbeat is due, even if events are waiting."""
        wait = self._heartbeat_at - self._context.engine_clock()
        event = await self._events.take(wait) if wait > 0 else None
        if event is None:
            self._put_off_heartbeat()
        return event

    def _put_off_heartbeat(self) -> None:
        """Send the next heartbeat after the usual interval: another message has just proved that this worker lives."""
        self._heartbeat_at = self._context.engine_clock() + self._context.settings.heartbeat_seconds

    async def _collect(self, complete: Callable[[], bool]) -> AsyncGenerator[llm_pb2.GenerateResponse]:
        """Collect voice and text until `complete`; yield heartbeats meanwhile."""
        while not complete():
            event = await self._next_event()
            if isinstance(event, voice_pb2.VoiceContent):
                self._context.voices.put(self._checked_voice(event))
                self._voice_sent = True
            elif isinstance(event, llm_pb2.TextTokens):
                self._add_text(event)
            elif isinstance(event, _TextEnd):
                if not self._has_voice():
                    raise InvalidInput("the stream ended before the voice was sent", field="voice")
                self._progress.text_complete = True
            elif event is None:
                yield self._heartbeat()

    def _has_voice(self) -> bool:
        return self._voice_sent or self._start.voice_hash in self._context.voices

    def _checked_voice(self, content: voice_pb2.VoiceContent) -> Voice:
        """Return the voice that start names. Raises InvalidInput."""
        if content.voice_hash != self._start.voice_hash:
            raise InvalidInput("the voice sent is not the one that start names", field="voice.voice_hash")
        return requests.checked_voice(content, self._context.model_id, self._context.model)

    def _add_text(self, text: llm_pb2.TextTokens) -> None:
        progress, most = self._progress, self._context.settings.max_request_tokens
        if progress.text_complete:
            raise InvalidInput("text followed the last text; send it as a new utterance", field="text")
        if len(progress.text) + len(text.ids) > most:
            raise InvalidInput(f"the text has more than {most} tokens; split it into utterances", field="text")
        progress.text.extend(text.ids)
        progress.text_complete = text.last

    def _enough_text(self) -> bool:
        progress = self._progress
        early = requests.may_interleave(self._start, self._context.model)
        return progress.text_complete or (early and len(progress.text) > self._resume_tried_with)

    def _submit(self, voice: Voice) -> Handle | None:
        """Submit the utterance to the engine; None if the ids to resume need more text than has been received."""
        start, context, progress = self._start, self._context, self._progress
        if not progress.text:
            raise InvalidInput("there is no text to speak", field="text")
        raw_ids = tuple(start.resume.raw_ids)
        self._order = requests.text_order(start, context.model, text_complete=progress.text_complete)
        request = Request(
            text_ids=tuple(progress.text),
            prompt=requests.prompt_of(start, voice, self._order, context.end_of_prompt),
            sampling=requests.sampling_of(start),
            text_complete=progress.text_complete,
            text_order=self._order,
            resume_ids=raw_ids,
            text_position=requests.text_position(start),
            max_seconds=requests.longest_seconds(start, context.settings),
            max_tokens=self._max_tokens(len(raw_ids)),
            play_at=progress.started_at
            + requests.first_audio_after(start, context.settings)
            - start.resume.next_sample / context.model.sample_rate,
            speed=requests.speed_of(start),
            style=requests.engine_style(start, context.styles),
            place=requests.place_of(start),
        )
        try:
            handle = context.engine.submit(request, self._inbox.receive)
        except TextMissing as error:
            if progress.text_complete:
                raise InvalidInput(str(error), field="start.resume.raw_ids") from error
            self._resume_tried_with = len(progress.text)
            return None
        except (RequestError, EngineFull, EngineClosed) as error:
            raise requests.map_engine_error(error) from error
        progress.submitted_at = context.engine_clock()
        progress.resume(handle.resumed)
        return handle

    def _max_tokens(self, spoken: int) -> int:
        """Speech tokens that the engine may generate when this many have become audio; at least a hop more."""
        lead = int(self._context.settings.lead_seconds * self._progress.token_rate)
        return spoken + max(lead, self._progress.hops.longest)

    async def _speak(self, voice: Voice, handle: Handle) -> AsyncGenerator[llm_pb2.GenerateResponse]:
        decode = self._decode_stream(voice)
        self._send_hop(decode, voice)
        try:
            async with background(self._relay(decode), self._events):
                spoken = False
                while not spoken:
                    event = await self._next_event()
                    if isinstance(event, decode_pb2.DecodedAudio):
                        self._take_tokens(decode, voice)  # audio reports all tokens up to now
                        yield self._audio(event, handle)
                        spoken = event.audio.last
                        self._put_off_heartbeat()
                    elif isinstance(event, decode_client.Started | decode_client.Moved):
                        yield self._started(event)
                        self._put_off_heartbeat()
                    elif event is None:
                        yield self._heartbeat()
                    else:
                        self._advance(event, handle, decode, voice)
                yield llm_pb2.GenerateResponse(done=self._progress.done)
        finally:
            self._context.engine.cancel(handle)

    def _advance(self, event: _Event, handle: Handle, decode: decode_client.DecodeStream, voice: Voice) -> None:
        """Handle an event that needs no response: tokens, more text, the playback position."""
        if isinstance(event, TokensReady):
            self._take_tokens(decode, voice)
        elif isinstance(event, FailedEvent):
            raise requests.map_engine_error(event.error) from event.error
        elif isinstance(event, llm_pb2.TextTokens):
            self._add_text(event)
            self._send_text(handle, tuple(event.ids))
        elif isinstance(event, _TextEnd) and not self._progress.text_complete:
            self._progress.text_complete = True
            self._send_text(handle, ())
        elif isinstance(event, audio_pb2.PlaybackPosition):
            self._on_position(event.seconds, handle)
            decode.report_position(event.seconds)

    def _send_text(self, handle: Handle, ids: tuple[int, ...]) -> None:
        engine = self._context.engine
        try:
            engine.append_text(handle, ids)
        except RequestError as error:
            raise requests.map_engine_error(error) from error
        if self._progress.text_complete:
            engine.end_text(handle)

    def _take_tokens(self, decode: decode_client.DecodeStream, voice: Voice) -> None:
        tokens = self._inbox.take()
        if tokens is not None:
            self._progress.take(tokens)
            self._send_hop(decode, voice)
            self._inbox.wake_after(self._progress.missing(len(voice.speech_tokens)))

    def _send_hop(self, decode: decode_client.DecodeStream, voice: Voice) -> None:
        hop = self._progress.next_hop(len(voice.speech_tokens))
        if hop is not None:
            decode.push(hop, last=self._progress.ended)

    def _decode_stream(self, voice: Voice) -> decode_client.DecodeStream:
        start, settings = self._start, self._context.settings
        policy = MovePolicy(
            settings.decode_silence_seconds,
            settings.decode_stall_seconds,
            settings.decode_max_moves,
            settings.decode_patience_seconds,
            settings.decode_frozen_seconds,
        )
        place = requests.place_of(start)
        message = decode_pb2.DecodeStart(
            request_id=start.request_id,
            voice_hash=start.voice_hash,
            seed=start.seed,
            chunk_plan=start.chunk_plan if start.HasField("chunk_plan") else None,
            urgency=start.urgency,
            speed=start.speed,
            full_attention_last_chunk=start.full_attention_last_chunk,
            place=audio_pb2.SessionPlace(session=place.session, admitted=place.admitted),
        )
        resume = start.resume
        return decode_client.DecodeStream(
            self._context.pool,
            message,
            voice,
            self._context.model_id,
            policy,
            record=resume.decode_record,
            next_sample=resume.next_sample,
            default_target=settings.first_audio_target_seconds,
            elapsed=self._context.engine_clock() - self._progress.started_at,
            failover_budget=self._context.failover_budget,
            clock=self._context.clock,
            process_clock=self._context.engine_clock,
        )

    async def _relay(self, decode: decode_client.DecodeStream) -> None:
        async with aclosing(decode.events()) as events:
            async for event in events:
                # `send` waits for the reader, so that a slow client slows the decode worker down.
                await self._events.send(event)

    def _audio(self, decoded: decode_pb2.DecodedAudio, handle: Handle) -> llm_pb2.GenerateResponse:
        progress, engine = self._progress, self._context.engine
        first = progress.playback_start is None
        response = progress.record_audio(decoded)
        if first and progress.playback_start is not None and not requests.offline(self._start):
            engine.set_play_at(handle, progress.playback_start)
        engine.set_max_tokens(handle, self._max_tokens(decoded.tokens_spoken))
        return response

    def _on_position(self, seconds: float, handle: Handle) -> None:
        """Once the client reports its position, deadlines use it instead of the clock."""
        requests.check_position(seconds)
        if self._progress.playback_start is not None and not requests.offline(self._start):
            self._progress.playback_start = self._context.engine_clock() - seconds
            self._context.engine.set_play_at(handle, self._progress.playback_start)

    def _started(self, event: decode_client.Started | decode_client.Moved) -> llm_pb2.GenerateResponse:
        if isinstance(event, decode_client.Moved):
            moved = llm_pb2.DecodeMoved(from_worker=event.from_worker, to_worker=event.to_worker, reason=event.reason)
            return llm_pb2.GenerateResponse(moved=moved)
        self._progress.done.decode_worker = event.worker
        started = llm_pb2.GenerateStarted(
            llm_worker=self._context.settings.worker_name,
            decode_worker=event.worker,
            sample_rate=event.sample_rate,
            text_order=_ORDERS[self._order],
            origin=self._origin,
            samples_per_token=event.sample_rate / self._progress.token_rate if self._progress.aligns else 0,
        )
        return llm_pb2.GenerateResponse(started=started)

    def _heartbeat(self) -> llm_pb2.GenerateResponse:
        state = audio_pb2.Heartbeat.STATE_RUNNING
        if not self._progress.text_complete:
            state = audio_pb2.Heartbeat.STATE_WAITING
        elif not self._progress.generated:
            state = audio_pb2.Heartbeat.STATE_QUEUED
        return llm_pb2.GenerateResponse(heartbeat=audio_pb2.Heartbeat(steps=self._context.engine.steps, state=state))
