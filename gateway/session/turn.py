"""The part of a session between two cancels: text in, concurrent utterances, audio out in order."""

from __future__ import annotations

import asyncio
import hashlib
import struct
from collections import deque
from dataclasses import dataclass
from functools import partial

from gateway import tasks
from gateway.audio.samples import amplified
from gateway.closable_queue import ClosableQueue
from gateway.session.options import MAX_SPEED, MIN_SPEED, SpeechOptions
from gateway.session.output import Output
from gateway.session.text_cursor import SessionProgress
from gateway.session.text_queue import Boundary, Change, End, Flush, TextQueue
from gateway.session.text_segment import TextSegment
from gateway.stream_stats import PlaybackStats
from gateway.utterance.utterance import AudioPart, LlmClientContext, UtteranceStream
from lighttts.v1 import audio_pb2, encode_pb2, llm_pb2, text_pb2, tts_pb2, voice_pb2
from services.common.errors import LightTtsError
from services.common.pool import Pool

UTTERANCES_AHEAD = 1
"""Utterances that may be generated while an earlier one is delivered: enough to avoid a gap between two, and the most
that a barge-in wastes."""
ORDER_ITEMS = 64
"""Utterances, pauses and flushes that may wait for delivery. It bounds the last two; UTTERANCES_AHEAD bounds
utterances."""

SURE_SHARE = 0.5
"""The part of the estimated audio of a text that it surely has."""


@dataclass(frozen=True)
class TurnContext:
    """What all turns of a session share."""

    encode: Pool
    llm: LlmClientContext
    options: SpeechOptions
    request_id: str
    interleaved: bool
    words: bool
    """Whether the words of the text are needed, for times or for exact cuts."""
    place: audio_pb2.SessionPlace
    """The session's place at the workers, shared by all utterances."""
    registered_voice: bool
    """Whether the voice may be one that its owner has registered."""
    voice: asyncio.Future[voice_pb2.VoiceContent]
    """Done when Started has been sent to the client; no event may be sent before."""
    encode_served: bool = False
    """Whether an encode worker served when the session began: then its text waits for one that starts again."""


@dataclass(frozen=True)
class Silence:
    """A pause that the text asks for."""

    seconds: float
    end_offset: int
    """Characters of the session's text that have been spoken after it."""


class Turn:
    """One turn. `feed`, `flush` and `end` never block; `run` ends with the last audio or is cancelled."""

    def __init__(
        self, context: TurnContext, output: Output, stats: PlaybackStats, progress: SessionProgress, number: int
    ) -> None:
        """`number`: 0, 1, 2 ... in the session. The turn begins after all text received so far."""
        self.number = number
        self.unmarked: deque[Flush] = deque()
        """Flushes whose Mark has not been sent."""
        self.changes = 0
        """Changes that wait for the text before them."""
        self._context = context
        self._output = output
        self._stats = stats
        self._progress = progress
        self._text = progress.text
        self._first_offset = progress.text.received
        self._first_sample = output.samples
        self._text_queue = TextQueue()
        self._latest: str | Boundary = ""
        self._order: ClosableQueue[UtteranceStream | Silence | Flush] = ClosableQueue(ORDER_ITEMS)
        """The queue of utterances. The audio of each waits in a queue of its own, `UtteranceStream.parts`, because the
        next utterance is generated while the current one is delivered, and each holds back its own worker."""
        self._utterance_slots = asyncio.Semaphore(1 + UTTERANCES_AHEAD)
        self._utterances = 0
        self._newest: UtteranceStream | None = None
        self._open: UtteranceStream | None = None
        self._delivering: UtteranceStream | None = None
        self._delivered_from = 0

    def feed(self, text: str) -> None:
        self._stats.on_text(len(text))
        self._text.receive(text)
        self._progress.update()
        self._put(text)

    def flush(self, flush: Flush) -> None:
        self.unmarked.append(flush)
        self._stats.on_flush()
        self._put(flush)

    def change(self, context: TurnContext) -> None:
        """Speak the text that follows as `context` says."""
        self.changes += 1
        self._put(Change(context))

    def end(self) -> None:
        self._put(End())

    def report_position(self, seconds: float) -> None:
        """Pass on the listener's position, in seconds of the session's audio."""
        if self._delivering is not None:
            self._delivering.report_position(seconds - self._delivered_from / self._output.sample_rate)

    async def run(self) -> None:
        """Speak the turn. Raises the error of any stage, after the audio before the error was sent."""
        async with tasks.group() as group:
            group.create_task(self._plan(group))
            await asyncio.shield(self._context.voice)
            async for item in self._order:
                if isinstance(item, Flush):
                    await self._mark(item)
                elif isinstance(item, Silence):
                    await self._be_silent(item)
                else:
                    await self._deliver(item)
                    self._utterance_slots.release()

    def _put(self, item: str | Boundary) -> None:
        if not isinstance(item, Change):
            self._latest = item
        self._text_queue.put(item)

    async def _plan(self, group: asyncio.TaskGroup) -> None:
        """Split the text into utterances; start each as soon as its text is known and an utterance slot is free."""
        try:
            boundary: Boundary | None = None
            while not isinstance(boundary, End):
                segment = TextSegment(self._text_queue)
                if await segment.begin():
                    await self._encode(segment, group)
                self._text.encoded += segment.characters
                boundary = segment.boundary
                if isinstance(boundary, Flush):
                    self._stats.on_turn_read()
                    await self._order.send(boundary)
                if isinstance(boundary, Change) and isinstance(boundary.context, TurnContext):
                    self._context = boundary.context
                    self.changes -= 1
        except LightTtsError as error:
            if self._open is not None:  # without the end of its text, its audio would not end either
                self._open.parts.close(error)
            self._order.close(error)
        else:
            self._order.close()

    async def _encode(self, segment: TextSegment, group: asyncio.TaskGroup) -> None:
        async def on_run(run: encode_pb2.EncodedText) -> None:
            if run.silence_seconds:
                await self._order.send(Silence(run.silence_seconds, self._text.encoded + run.end))
                return
            utterance = self._open if self._open is not None else await self._begin(group, run)
            utterance.end_offset = self._text.encoded + run.end
            utterance.words.add_words(run.words, self._text.encoded)
            utterance.add_text(run.ids, last=run.last)
            self._stats.add_text_tokens(len(run.ids))
            self._open = None if run.last else utterance

        async def on_warning(warning: text_pb2.TextWarning) -> None:
            await asyncio.shield(self._context.voice)  # Started comes first
            await self._output.warn(warning.code, warning.message)

        options = self._context.options
        if not self._context.place.admitted:
            self._context.llm.recent_refusal.check(options.priority)
        start = encode_pb2.EncodeTextStart(
            request_id=self._context.request_id,
            interleaved=self._context.interleaved,
            instruct_text=await self._instruction(),
            language=options.language,
            lexicon=options.lexicon,
            idle_seconds=options.text_wait_seconds,
            notes=True,
            words=self._context.words,
        )
        await segment.encode(
            self._context.encode,
            start,
            on_run,
            on_warning,
            patience=self._context.llm.policy.patience_seconds,
            waits=self._context.place.admitted or self._context.encode_served,
        )
        if self._open is not None:  # the boundary ends it, even without a run marked as last
            self._open.add_text((), last=True)
            self._open = None

    async def _instruction(self) -> str | None:
        """Return the instruction; None to continue the voice's prompt. A voice without a transcript has only a timbre.

        Only a registered voice can lack one without a word of the request about it, so only these are waited for.
        """
        options = self._context.options
        if options.instruction is None and self._context.registered_voice:
            voice = await asyncio.shield(self._context.voice)
            if voice.speech_tokens and not voice.prompt_text_ids:
                return ""
        return options.instruction

    async def _begin(self, group: asyncio.TaskGroup, run: encode_pb2.EncodedText) -> UtteranceStream:
        await self._utterance_slots.acquire()
        if self._newest is not None:
            # Until its first audio an utterance does not share the workers with the next one, so it starts sooner.
            await self._newest.audible.wait()
        voice = await asyncio.shield(self._context.voice)
        options = self._context.options
        start = llm_pb2.GenerateStart(
            request_id=self._context.request_id,
            style=options.style,
            voice_hash=voice.voice_hash,
            prompt_use=_prompt_use(await self._instruction()),
            instruct_ids=run.instruct_ids,
            sampling=options.sampling,
            seed=utterance_seed(options.seed, self.number, self._utterances),
            urgency=audio_pb2.Urgency(priority=options.priority),
            speed=min(max(options.speed * (run.speed or 1.0), MIN_SPEED), MAX_SPEED),
            # Fixed here, so that the audio does not depend on when fragments of text arrive.
            text_order=llm_pb2.TEXT_ORDER_INTERLEAVED if self._context.interleaved else llm_pb2.TEXT_ORDER_WHOLE,
        )
        self._utterances += 1
        previous = self._newest
        lead = float if previous is None else partial(self._lead, previous.end_offset)
        utterance = UtteranceStream(self._context.llm, start, voice, self._output.model_rate, self._context.place, lead)
        utterance.gain = run.gain if run.HasField("gain") else 1.0
        self._newest = utterance
        group.create_task(utterance.run())
        await self._order.send(utterance)
        return utterance

    def _lead(self, offset: int) -> float:
        """Return the seconds until the listener has played the audio of all text before `offset`.

        Audio that has not been sent yet is estimated and counts in part, because an utterance that starts too late is
        heard, and one that starts early is not.
        """
        output = self._output
        unsent = SURE_SHARE * output.alignment.samples_until(offset, output.samples)
        return max(0.0, (output.samples + unsent) / output.sample_rate - output.playback.position)

    async def _deliver(self, utterance: UtteranceStream) -> None:
        output = self._output
        self._delivering, self._delivered_from = utterance, output.samples
        self._stats.begin_utterance(utterance.times)
        output.begin(self._text.spoken, utterance.words)
        async for part in utterance.parts:
            if isinstance(part, AudioPart):
                output.alignment.extend(utterance.end_offset)
                await output.send_audio(amplified(part.pcm, utterance.gain), last=part.last)
            else:
                await output.send(part)
        self._delivering = None
        self._text.spoken = utterance.end_offset
        output.alignment.extend(self._text.spoken)
        output.alignment.end(output.samples)
        output.alignment.discard_before(self._played)
        self._stats.end_utterance(utterance.decode_worker, utterance.speech_tokens)
        await output.send(tts_pb2.Spoken(text_offset=self._text.spoken, sample=output.samples))
        self._progress.update()

    async def _be_silent(self, silence: Silence) -> None:
        output = self._output
        output.alignment.begin(self._text.spoken, output.samples)
        output.alignment.extend(silence.end_offset)
        await output.send_silence(silence.seconds)
        output.alignment.end_silence(output.samples)
        self._text.spoken = silence.end_offset
        output.alignment.discard_before(self._played)
        await output.send(tts_pb2.Spoken(text_offset=self._text.spoken, sample=output.samples))
        self._progress.update()

    @property
    def _played(self) -> int:
        """The sample that the listener has reached."""
        return int(self._output.playback.position * self._output.sample_rate)

    def cut(self) -> tts_pb2.Spoken:
        """Drop the rest of this cancelled turn's text. Return how much of it was played."""
        sample = min(max(self._played, self._first_sample), self._output.samples)
        offset, estimated = self._output.alignment.offset_at(sample)
        self._text.cut()
        self._output.alignment.cut(self._text.received)
        self._progress.update()
        offset = max(offset, self._first_offset)
        return tts_pb2.Spoken(text_offset=offset, sample=sample, cut=True, estimated=estimated)

    async def _mark(self, flush: Flush) -> None:
        self._text.marked = flush.text_offset
        if self._latest is flush:
            self._stats.pause()
            self._text.skip()
            self._progress.update()
        await self._output.send(tts_pb2.Mark(flush=flush.number, turn=self._stats.turn_finished()))
        self.unmarked.popleft()


def utterance_seed(seed: int, turn: int, utterance: int) -> int:
    """Return a 64-bit seed per utterance, so that a request's utterances differ and the same request repeats them."""
    digest = hashlib.blake2b(struct.pack("<QQQ", seed, turn, utterance), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


def _prompt_use(instruction: str | None) -> llm_pb2.PromptUse.ValueType:
    return llm_pb2.PROMPT_USE_ZERO_SHOT if instruction is None else llm_pb2.PROMPT_USE_TIMBRE
