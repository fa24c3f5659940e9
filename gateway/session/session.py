"""One client's stream, for every API: inputs in, events out."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeAlias

from gateway import metrics, tasks
from gateway.auth import usage
from gateway.auth.usage import Outcome
from gateway.session.context import GatewayContext
from gateway.session.idle import wait_until_idle
from gateway.session.options import SpeechOptions, checked_start
from gateway.session.output import Event, Output
from gateway.session.playback import PlaybackClock
from gateway.session.text_cursor import SessionProgress
from gateway.session.text_queue import Flush
from gateway.session.turn import Turn, TurnContext
from gateway.stream_stats import PlaybackStats
from gateway.voices.reference import NamedVoice
from lighttts.v1 import audio_pb2, tts_pb2, voice_pb2
from services.common import tracing
from services.common.errors import InvalidInput, LightTtsError, TimedOut
from services.common.telemetry import current_request_id


@dataclass(frozen=True)
class TextInput:
    text: str


@dataclass(frozen=True)
class FlushInput:
    """Speak all text so far; a Mark event follows its audio."""


@dataclass(frozen=True)
class CancelInput:
    """Drop all audio that has not been sent."""


@dataclass(frozen=True)
class PositionInput:
    """The client's playback position."""

    seconds: float
    """Seconds of the stream's audio that were played."""


@dataclass(frozen=True)
class ConfigureInput:
    """Speak the text that follows with other options; their audio format, seed and priority are not used."""

    options: SpeechOptions


Input: TypeAlias = TextInput | FlushInput | CancelInput | PositionInput | ConfigureInput

MAX_PENDING_CHANGES = 4
"""Changes of the options that may wait for the text before them; each may hold a recording."""
VOICES_IN_USE = 8
"""Voices of changed options that count as in use; with fewer changes pending, older ones speak no more text."""


async def one_text(text: str) -> AsyncGenerator[Input]:
    """The inputs of a request whose text is complete."""
    yield TextInput(text)


def new_place() -> audio_pb2.SessionPlace:
    """Return the place of a client's stream at the workers, under a random name; no worker has admitted it yet."""
    return audio_pb2.SessionPlace(session=secrets.token_hex(8))


class Session:
    """Turns a stream of inputs into a stream of events.

        async with Session(context, options, inputs) as session:
            async for event in session: ...

    The end of `inputs` is the end of the text; an error that `inputs` raises ends the session. Leaving the block in any
    way cancels all downstream calls and waits until all tasks have ended. Entering raises Overloaded or Unavailable;
    iterating raises any LightTtsError.
    """

    def __init__(
        self,
        context: GatewayContext,
        options: SpeechOptions,
        inputs: AsyncGenerator[Input],
        *,
        conversation: bool = False,
        start_sample: int = 0,
        place: audio_pb2.SessionPlace | None = None,
    ) -> None:
        """`conversation`: interactive; audio is paced to the listener, and the client may be asked to reconnect
        elsewhere during a pause. `start_sample`: the first sample to send. Raises InvalidInput if it cannot be.
        `place`: of the client's stream, if several sessions serve it one after another; None: a new one."""
        self._context = context
        self._options = options
        self._inputs = inputs
        self._stats = PlaybackStats()
        self._conversation = conversation
        self._place = place or new_place()
        playback = PlaybackClock(self._max_lead)
        start = checked_start(start_sample, options)
        longest = context.settings.max_speech_seconds
        self._output = Output(options.audio, self._stats, playback, longest, start, options.word_times)
        self._progress = SessionProgress()
        self._voice: asyncio.Future[voice_pb2.VoiceContent] = asyncio.get_running_loop().create_future()
        """Done when Started has been sent."""
        self._turn_context = TurnContext(
            encode=context.encode,
            llm=context.llm_client_context,
            options=options,
            request_id=current_request_id(),
            interleaved=context.settings.interleaved_text and context.voices.model.interleaved_text,
            words=options.word_times or conversation,
            place=self._place,
            registered_voice=isinstance(options.voice, NamedVoice) and not context.voices.bundled(options.voice),
            voice=self._voice,
            encode_served=context.encode.serves_end_to_end,
        )
        self._changes = 0
        self._preparing: set[asyncio.Task[None]] = set()
        """One task for each change that has not been announced."""
        self._announced = self._voice
        """Done when the latest change, or the start, has been announced."""
        self._voices_in_use: deque[contextlib.AsyncExitStack] = deque()
        self._inputs_taken = 0
        self._flushes = 0
        self._task: asyncio.Task[None] | None = None
        self._ended = False
        """Whether all events have been sent; only clean-up is left."""
        self._resources = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._resources.enter_async_context(self._context.admit(self, continues=self._place.admitted))
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        async with self._resources:
            if self._task is not None and not self._task.done():
                if not self._ended:
                    if not self._task.cancelling():  # `abort` did not cancel it
                        metrics.CANCELLATIONS.labels("client").inc()
                    self._task.cancel()
                await asyncio.wait({self._task})

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._output.events

    def retire(self) -> None:
        """Ask the client, as soon as no text waits to be spoken, to reconnect to another gateway."""
        if self._conversation:
            self._progress.retire()

    def abort(self, error: LightTtsError) -> None:
        """End the session at once; the reader of its events gets `error`."""
        if self._task is not None and self._task.cancel():
            self._output.events.close(error)

    async def _run(self) -> None:
        outcome: Outcome = "cancelled"
        try:
            with self._context.request_stats.request(), tracing.span("session"):
                async with tasks.group() as group, contextlib.aclosing(self._inputs):
                    group.create_task(self._announce())
                    background = [group.create_task(work) for work in (self._watch_idle(), self._send_reconnect())]
                    await self._serve(group)
                    for task in background:
                        task.cancel()
                await self._output.finish()
                await self._output.send(self._stats.finished())
            outcome = "finished"
        except Exception as error:  # noqa: BLE001 - the reader of the events raises it
            outcome = "failed"
            self._ended = True
            self._output.events.close(error)
        else:
            self._ended = True
            self._output.events.close()
        finally:
            self._record_usage(outcome)
            # Not only in `__aexit__`: a client that stops reading never gets there.
            await self._resources.aclose()

    def _record_usage(self, outcome: Outcome) -> None:
        text_tokens, speech_tokens = self._stats.tokens
        usage.record(
            characters=self._progress.text.received,
            audio_seconds=self._stats.audio_seconds,
            outcome=outcome,
            text_tokens=text_tokens,
            speech_tokens=speech_tokens,
        )

    async def _watch_idle(self) -> None:
        """Close a session with no reads or writes for `idle_seconds`."""
        seconds = self._context.settings.idle_seconds
        await wait_until_idle(lambda: (self._inputs_taken, self._output.events.taken), seconds)
        raise TimedOut(f"the stream had no input and no reads for {seconds:g} s; open a new stream when there is text")

    async def _announce(self) -> None:
        self._output.open(self._context.voices.model.sample_rate)
        voice = await self._resources.enter_async_context(self._context.voices.use(self._options.voice))
        if voice.seconds:  # an estimate from the prompt, until the first utterance has ended
            samples = voice.seconds * self._output.sample_rate / self._options.speed
            self._output.alignment.pace = len(voice.transcript) / samples
        started = tts_pb2.Started(
            request_id=self._turn_context.request_id,
            voice_hash=voice.voice_hash,
            sample_rate=self._output.sample_rate,
            seed=self._options.seed,
            max_text_chars=self._context.settings.max_text_chars,
            max_pending_flushes=self._context.settings.max_pending_flushes,
            max_lead_seconds=self._max_lead or 0.0,
            max_speech_seconds=self._context.settings.max_speech_seconds,
            idle_seconds=self._context.settings.idle_seconds,
        )
        await self._output.send(started)
        for note in self._options.warnings:
            await self._output.send(note)
        for warning in voice.warnings:
            await self._output.send(tts_pb2.Warning(message=warning))
        self._voice.set_result(voice)
        self._progress.start()

    @property
    def _max_lead(self) -> float | None:
        offline = self._options.priority == audio_pb2.Urgency.PRIORITY_OFFLINE
        return self._context.settings.max_lead_seconds if self._conversation and not offline else None

    async def _send_reconnect(self) -> None:
        await self._progress.leaving.wait()
        seconds = self._context.settings.drain_grace_seconds
        await self._output.send(tts_pb2.Reconnect(reason="this gateway is stopping", within_seconds=seconds))

    async def _serve(self, group: asyncio.TaskGroup) -> None:
        turn = Turn(self._turn_context, self._output, self._stats, self._progress, number=0)
        task = group.create_task(turn.run())
        async for item in self._inputs:
            self._inputs_taken += 1
            match item:
                case TextInput(text):
                    self._add_text(turn, text)
                case FlushInput():
                    self._add_flush(turn)
                case PositionInput(seconds):
                    self._output.playback.report(seconds)
                    turn.report_position(seconds)
                case ConfigureInput(options):
                    self._change(turn, options, group)
                case CancelInput():
                    await self._cancel(turn, task)
                    turn = Turn(self._turn_context, self._output, self._stats, self._progress, turn.number + 1)
                    task = group.create_task(turn.run())
        self._output.playback.stop_reports()
        turn.end()
        await asyncio.wait({task})

    def _change(self, turn: Turn, options: SpeechOptions, group: asyncio.TaskGroup) -> None:
        """Speak the text that follows with `options`, except for what holds for the whole stream."""
        if turn.changes >= MAX_PENDING_CHANGES:
            raise InvalidInput(
                f"{turn.changes} changes wait for the text before them; wait for its audio", field="configure"
            )
        if len(self._preparing) >= MAX_PENDING_CHANGES:
            # A cancel drops the text before a change, but not the change.
            raise InvalidInput(
                f"{len(self._preparing)} changes wait for their voices; wait until they are configured",
                field="configure",
            )
        old = self._turn_context.options
        options = dataclasses.replace(options, seed=old.seed, seed_given=old.seed_given)
        voice: asyncio.Future[voice_pb2.VoiceContent] = asyncio.get_running_loop().create_future()
        registered = isinstance(options.voice, NamedVoice) and not self._context.voices.bundled(options.voice)
        self._turn_context = dataclasses.replace(
            self._turn_context, options=options, registered_voice=registered, voice=voice
        )
        preparing = group.create_task(self._prepare(options, voice, self._announced, self._changes))
        self._preparing.add(preparing)
        preparing.add_done_callback(self._preparing.discard)
        self._changes += 1
        self._announced = voice
        turn.change(self._turn_context)

    async def _prepare(
        self,
        options: SpeechOptions,
        voice: asyncio.Future[voice_pb2.VoiceContent],
        before: asyncio.Future[voice_pb2.VoiceContent],
        number: int,
    ) -> None:
        """Look up the voice of changed options; announce the change after those `before` it.

        Raises the error of a voice that cannot be used.
        """
        use = await self._resources.enter_async_context(contextlib.AsyncExitStack())
        content = await use.enter_async_context(self._context.voices.use(options.voice))
        self._voices_in_use.append(use)
        while len(self._voices_in_use) > VOICES_IN_USE:
            await self._voices_in_use.popleft().aclose()
        await asyncio.shield(before)
        for note in options.warnings:
            await self._output.send(note)
        await self._output.send(tts_pb2.Configured(number=number, voice_hash=content.voice_hash))
        voice.set_result(content)

    def _add_text(self, turn: Turn, text: str) -> None:
        if not text:
            return
        limit = self._context.settings.max_text_chars
        if self._progress.text.waiting + len(text) > limit:
            raise InvalidInput(f"more than {limit} characters wait to be spoken; send text more slowly", field="text")
        turn.feed(text)

    def _add_flush(self, turn: Turn) -> None:
        limit = self._context.settings.max_pending_flushes
        if len(turn.unmarked) >= limit:
            raise InvalidInput(f"{limit} flushes are pending; wait for their marks", field="flush")
        turn.flush(Flush(self._flushes, self._progress.text.received))
        self._flushes += 1

    async def _cancel(self, turn: Turn, task: asyncio.Task[None]) -> None:
        metrics.CANCELLATIONS.labels("barge_in").inc()
        task.cancel()
        await asyncio.wait({task})
        self._stats.pause()
        self._stats.drop_turns()
        await asyncio.shield(self._voice)
        cut = turn.cut()
        self._output.cut()
        await self._output.send(cut)
        for flush in turn.unmarked:
            await self._output.send(tts_pb2.Mark(flush=flush.number))
