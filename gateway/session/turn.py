"""What is said between two cancels: text in, utterances side by side, audio out in order."""

from __future__ import annotations

import asyncio
import hashlib
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from gateway import tasks
from gateway.closable_queue import ClosableQueue
from gateway.session.options import SpeechOptions
from gateway.session.output import Output
from gateway.session.text_queue import End, Flush, TextQueue
from gateway.session.text_segment import TextSegment
from gateway.stream_stats import PlaybackStats
from gateway.utterance.utterance import AudioPart, LlmClientContext, UtteranceStream
from lighttts.v1 import audio_pb2, encode_pb2, llm_pb2, tts_pb2, voice_pb2
from services.common.errors import LightTtsError
from services.common.pool import Pool

UTTERANCES_AHEAD = 1
"""Utterances that may be generated while an earlier one is delivered, so that no gap is heard between two and a
barge-in wastes no more than this."""
ORDER_ITEMS = 64
"""Utterances and flushes that may wait for delivery; utterances are bounded by the above, this bounds flushes."""


@dataclass(frozen=True)
class Speaker:
    """How a session speaks, the same in all its turns."""

    encode: Pool
    llm: LlmClientContext
    options: SpeechOptions
    request_id: str
    interleaved: bool
    voice: Callable[[], Awaitable[voice_pb2.VoiceContent]]
    """Waits until the session has been announced to the client, then gives its voice."""


class Turn:
    """One turn. `feed`, `flush` and `end` never wait; `run` ends with the last audio, or is cancelled."""

    def __init__(
        self, speaker: Speaker, output: Output, stats: PlaybackStats, quiet: asyncio.Event, number: int, offset: int
    ) -> None:
        """`quiet`: set while nothing is to be spoken; `number`: 0, 1, 2 ... in the session; `offset`: characters of the
        session's text before this turn."""
        self.number = number
        self.offset = offset
        self.unmarked: deque[Flush] = deque()
        """Flushes whose Mark has not been sent."""
        self._speaker = speaker
        self._output = output
        self._stats = stats
        self._quiet = quiet
        self._fed = offset
        self._to_speak = offset
        """Characters of the session's text up to the last letter or digit; nothing behind it will be spoken."""
        self._first_sample = output.samples
        self._text_queue = TextQueue()
        self._latest: str | Flush | End = ""
        self._order: ClosableQueue[UtteranceStream | Flush] = ClosableQueue(ORDER_ITEMS)
        self._ahead = asyncio.Semaphore(1 + UTTERANCES_AHEAD)
        self._utterances = 0
        self._newest: UtteranceStream | None = None
        self._open: UtteranceStream | None = None
        self._delivering: UtteranceStream | None = None
        self._delivered_from = 0
        self.spoken = offset
        """Characters of the session's text that have been spoken."""

    def feed(self, text: str) -> None:
        self._stats.text()
        if words := _last_letter(text):
            self._quiet.clear()
            self._to_speak = self._fed + words
        self._fed += len(text)
        self._put(text)

    def flush(self, flush: Flush) -> None:
        self.unmarked.append(flush)
        self._put(flush)

    def end(self) -> None:
        self._put(End())

    def report_position(self, seconds: float) -> None:
        """Where the listener is in the session's audio, in seconds."""
        if self._delivering is not None:
            self._delivering.report_position(seconds - self._delivered_from / self._output.sample_rate)

    async def run(self) -> None:
        """Raises what any stage raised, after the audio that came before it was sent."""
        async with tasks.group() as group:
            group.create_task(self._plan(group))
            await self._speaker.voice()  # nothing goes out before the announcement
            async for item in self._order:
                if isinstance(item, Flush):
                    await self._mark(item)
                else:
                    await self._deliver(item)
                    self._ahead.release()

    def _put(self, item: str | Flush | End) -> None:
        self._latest = item
        self._text_queue.put(item)

    async def _plan(self, group: asyncio.TaskGroup) -> None:
        """Text to utterances, each generating as soon as it is known and not too far ahead of the listener."""
        try:
            offset = self.offset
            boundary: Flush | End | None = None
            while not isinstance(boundary, End):
                segment = TextSegment(self._text_queue)
                if await segment.begin():
                    await self._encode(segment, offset, group)
                offset += segment.characters
                boundary = segment.boundary
                if isinstance(boundary, Flush):
                    await self._order.send(boundary)
        except LightTtsError as error:
            self._order.close(error)
        else:
            self._order.close()

    async def _encode(self, segment: TextSegment, offset: int, group: asyncio.TaskGroup) -> None:
        async def on_run(run: encode_pb2.EncodedText) -> None:
            utterance = self._open if self._open is not None else await self._begin(group, run.instruct_ids)
            utterance.end_offset = offset + run.end
            utterance.say(run.ids, last=run.last)
            self._stats.read(len(run.ids))
            self._open = None if run.last else utterance

        start = encode_pb2.EncodeTextStart(
            request_id=self._speaker.request_id,
            interleaved=self._speaker.interleaved,
            instruct_text=self._speaker.options.instruction,
        )
        await segment.encode(self._speaker.encode, start, on_run)
        if self._open is not None:  # the border ends it, whether or not its last run said so
            self._open.say((), last=True)
            self._open = None

    async def _begin(self, group: asyncio.TaskGroup, instruct_ids: Sequence[int]) -> UtteranceStream:
        await self._ahead.acquire()
        if self._newest is not None:
            # Until its first audio an utterance has the workers for itself: nobody waits longer for what is said first.
            await self._newest.audible.wait()
        voice = await self._speaker.voice()
        options = self._speaker.options
        start = llm_pb2.GenerateStart(
            request_id=self._speaker.request_id,
            style=options.style,
            voice_hash=voice.voice_hash,
            prompt_use=_prompt_use(options),
            instruct_ids=instruct_ids,
            sampling=options.sampling,
            seed=utterance_seed(options.seed, self.number, self._utterances),
            urgency=_urgency(options),
            speed=options.speed,
            # Said rather than left to when text happens to arrive, so that fragmentation changes nothing.
            text_order=llm_pb2.TEXT_ORDER_INTERLEAVED if self._speaker.interleaved else llm_pb2.TEXT_ORDER_WHOLE,
        )
        self._utterances += 1
        utterance = UtteranceStream(self._speaker.llm, start, voice, self._output.model_rate)
        self._newest = utterance
        group.create_task(utterance.run())
        await self._order.send(utterance)
        return utterance

    async def _deliver(self, utterance: UtteranceStream) -> None:
        output = self._output
        self._delivering, self._delivered_from = utterance, output.samples
        self._stats.speaks(utterance.times)
        output.spoken.begin(self.spoken, output.samples)
        async for part in utterance.parts:
            if isinstance(part, AudioPart):
                output.spoken.reaches(utterance.end_offset)
                await output.audio(part.pcm, last=part.last)
            else:
                await output.send(part)
        self._delivering = None
        self.spoken = utterance.end_offset
        output.spoken.reaches(self.spoken)
        output.spoken.end(output.samples)
        output.spoken.forget(self._played)
        self._stats.utterance(utterance.decode_worker, utterance.speech_tokens)
        await output.send(tts_pb2.Spoken(text_offset=self.spoken, sample=output.samples))
        if self.spoken >= self._to_speak:
            self._quiet.set()

    @property
    def _played(self) -> int:
        """The sample the listener has come to."""
        return int(self._output.playback.position * self._output.sample_rate)

    def cut(self) -> tts_pb2.Spoken:
        """What of it was heard, after it was cancelled."""
        sample = min(max(self._played, self._first_sample), self._output.samples)
        offset, estimated = self._output.spoken.heard(sample)
        return tts_pb2.Spoken(text_offset=max(offset, self.offset), sample=sample, cut=True, estimated=estimated)

    async def _mark(self, flush: Flush) -> None:
        if self._latest is flush:
            self._stats.pause()
            self._quiet.set()
        await self._output.send(tts_pb2.Mark(flush=flush.number))
        self.unmarked.popleft()


def utterance_seed(seed: int, turn: int, utterance: int) -> int:
    """An utterance's own 64-bit seed: a request's utterances differ, and the same request gives the same ones."""
    digest = hashlib.blake2b(struct.pack("<QQQ", seed, turn, utterance), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


def _prompt_use(options: SpeechOptions) -> llm_pb2.PromptUse.ValueType:
    return llm_pb2.PROMPT_USE_ZERO_SHOT if options.instruction is None else llm_pb2.PROMPT_USE_TIMBRE


def _last_letter(text: str) -> int:
    """How many characters of `text` come before what follows its last letter or digit."""
    return next((end for end in range(len(text), 0, -1) if text[end - 1].isalnum()), 0)


def _urgency(options: SpeechOptions) -> audio_pb2.Urgency:
    # `class` is a word of the language, so it cannot be written as a keyword argument.
    return audio_pb2.Urgency(priority=options.priority)
