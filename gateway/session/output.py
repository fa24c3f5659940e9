"""Audio and events for the client. Samples are numbered continuously over all utterances of a session."""

from __future__ import annotations

import functools
import math
from collections.abc import AsyncIterable
from typing import TypeAlias

from gateway.audio.formats import AudioFormat
from gateway.audio.pipeline import AudioPipeline, Encoded
from gateway.audio.samples import FLOAT_BYTES
from gateway.closable_queue import ClosableQueue
from gateway.session.playback import PlaybackClock
from gateway.session.spoken_words import SpokenWords
from gateway.session.text_alignment import TextAlignment
from gateway.stream_stats import PlaybackStats
from gateway.utterance.words import UtteranceWords
from lighttts.v1 import audio_pb2, tts_pb2
from services.common import tracing
from services.common.errors import Internal, InvalidInput

Event: TypeAlias = (
    tts_pb2.Started
    | audio_pb2.AudioChunk
    | tts_pb2.Mark
    | tts_pb2.Spoken
    | tts_pb2.Warning
    | tts_pb2.Resumed
    | tts_pb2.Reconnect
    | tts_pb2.FirstAudio
    | tts_pb2.Finished
    | tts_pb2.Configured
)

Events: TypeAlias = AsyncIterable[Event]

ENCODED_SECONDS = 0.25
"""Audio encoded at a time in costly encodings (5 ms for this much Opus), so that other streams run in between."""

MAX_WARNINGS = 64
"""Most warnings about the text of one stream."""

NO_WORD_TIMES = (
    "word_times_unavailable",
    "words have no times here, because no attention head of the model follows the text; only utterances have times",
)


class Output:
    """Numbers, paces and encodes audio, and passes events to the reader; at most one event waits.

    When `send` or `send_audio` returns, its event is numbered and will be read. A cancelled call changes nothing.
    """

    def __init__(
        self,
        format_: AudioFormat,
        stats: PlaybackStats,
        playback: PlaybackClock,
        max_speech_seconds: float = math.inf,
        start_sample: int = 0,
        word_times: bool = False,
    ) -> None:
        """`max_speech_seconds`: longest audio between two marks or cuts. `start_sample`: the first sample that is sent;
        only for raw samples. `word_times`: chunks carry the times of words."""
        self.events: ClosableQueue[Event] = ClosableQueue(1)
        self.playback = playback
        self.alignment = TextAlignment()
        self.model_rate = 0
        """Samples per second of the audio given to `send_audio`."""
        self.samples = 0
        """Samples sent so far, at `sample_rate`."""
        self._max_speech_seconds = max_speech_seconds
        self._speech_seconds = 0.0
        """Audio since the last mark or cut."""
        self._start_sample = start_sample
        self._word_times = word_times
        self._words: SpokenWords | None = None
        """Of the utterance whose audio was sent last."""
        self._chunked = 0
        """Samples that the chunks sent so far cover; an encoder may hold some back."""
        self._sequence = 0
        self._warned: set[tuple[str, str]] = set()
        self._format = format_
        self._stats = stats
        self._pipeline: AudioPipeline | None = None

    def open(self, model_rate: int) -> None:
        """Set up the encoder; must precede the first audio. Raises InvalidInput if the format has no encoder."""
        self.model_rate = model_rate
        self._pipeline = AudioPipeline(self._format, model_rate)

    @property
    def sample_rate(self) -> int:
        """Samples per second of the sent audio; valid after `open`."""
        return self._opened.rate

    async def send(self, event: Event) -> None:
        await self.events.send(event)
        if isinstance(event, tts_pb2.Mark):
            self._opened.new_turn()
            self._speech_seconds = 0.0

    def begin(self, from_text: int, words: UtteranceWords) -> None:
        """Begin an utterance, whose text starts at `from_text`."""
        self._words = SpokenWords(words, self.samples, self.sample_rate / self.model_rate)
        self.alignment.begin(from_text, self.samples, self._words)

    async def send_audio(self, pcm: bytes, *, last: bool) -> None:
        """Send float32 samples; `last` ends an utterance. Raises InvalidInput beyond `max_speech_seconds`."""
        self._add_speech_seconds(len(pcm) / FLOAT_BYTES / self.model_rate)
        if self._word_times and pcm and (self._words is None or self._words.alignment != audio_pb2.ALIGNMENT_WORD):
            await self.warn(*NO_WORD_TIMES)
        raw = bool(self._format.encoding.sample_format)
        piece = len(pcm) if raw else int(ENCODED_SECONDS * self.model_rate) * FLOAT_BYTES
        for start in range(0, max(len(pcm), 1), max(piece, 1)):
            part, end = pcm[start : start + piece], start + piece >= len(pcm)
            if part or last:
                await self.playback.wait_for_room(len(part) / FLOAT_BYTES / self.model_rate)
                # Encoders cannot go back, so samples enter them only when their output is certain to be read.
                await self.events.send_made(functools.partial(self._encode, part, last=last and end))
                if (first := self._stats.take_first_audio()) is not None:
                    tracing.event("first audio", seconds=first.seconds)
                    await self.events.send(first)

    async def send_silence(self, seconds: float) -> None:
        """Send `seconds` of silence between two utterances, rounded to samples."""
        rate = self._opened.rate
        self._add_speech_seconds(seconds)
        rest = round(seconds * rate)
        while rest > 0:
            part = min(rest, int(ENCODED_SECONDS * rate))
            await self.playback.wait_for_room(part / rate)
            await self.events.send_made(functools.partial(self._encode_silence, part))
            rest -= part

    async def warn(self, code: str, message: str) -> None:
        """Send a warning, unless the stream has had the same one or too many."""
        if (code, message) not in self._warned and len(self._warned) < MAX_WARNINGS:
            self._warned.add((code, message))
            await self.events.send(tts_pb2.Warning(code=code, message=message))

    async def finish(self) -> None:
        """Send what the encoder still holds: the end of the file."""
        await self.events.send_made(lambda: self._chunk(self._opened.finish(), last=False))

    def cut(self) -> None:
        """Drop the unsent rest of a cancelled utterance."""
        self._opened.cut()
        self.playback.cut()
        self._speech_seconds = 0.0
        self._words = None  # a pause that follows has none

    def _add_speech_seconds(self, seconds: float) -> None:
        self._speech_seconds += seconds
        if self._speech_seconds > self._max_speech_seconds:
            raise InvalidInput(
                f"the text gives more than {self._max_speech_seconds:g} s of speech; send a long text in several"
                " requests, or flush a conversation from time to time",
                field="text",
            )

    def _encode(self, pcm: bytes, *, last: bool) -> audio_pb2.AudioChunk | None:
        encoded = self._opened.push(pcm, last=last)
        if self._words is not None:
            self._words.removed = self._opened.removed
        return self._count(encoded, last=last)

    def _encode_silence(self, samples: int) -> audio_pb2.AudioChunk | None:
        return self._count(self._opened.silence(samples), last=False, speech=False)

    def _count(self, encoded: Encoded, *, last: bool, speech: bool = True) -> audio_pb2.AudioChunk | None:
        """Number encoded samples, and leave out those before the first sample to send."""
        skipped = min(encoded.samples, max(0, self._start_sample - self.samples))
        data = encoded.data[skipped * len(encoded.data) // encoded.samples :] if skipped else encoded.data
        self.samples += encoded.samples
        self._chunked += skipped
        if sent := encoded.samples - skipped:
            self._stats.on_audio(sent / self.sample_rate, speech=speech)
            self.playback.sent(sent / self.sample_rate)
        return self._chunk(data, last=last)

    def _chunk(self, data: bytes, *, last: bool) -> audio_pb2.AudioChunk | None:
        """Return the next message, or None when there is nothing to send."""
        if not data and not last:
            return None
        chunk = audio_pb2.AudioChunk(
            sequence=self._sequence,
            first_sample=self._chunked,
            pcm=data,
            format=self._format.encoding.sample_format,
            encoding=self._format.encoding.number,
            sample_rate=self.sample_rate,
            last=last,
        )
        if self._word_times and self._words is not None:
            chunk.alignment = self._words.alignment
            words = self._words.due(self.samples)
            chunk.words.extend(w for w in words if w.open or w.first_sample + w.samples > self._start_sample)
        self._sequence += 1
        self._chunked = self.samples
        return chunk

    @property
    def _opened(self) -> AudioPipeline:
        if self._pipeline is None:
            raise Internal("audio was sent before the stream was opened")
        return self._pipeline
