"""What goes to the listener, numbered: one line of samples over all utterances of a session."""

from __future__ import annotations

from typing import TypeAlias

from gateway.channel import Channel
from gateway.encoding import FLOAT_BYTES, encode
from gateway.stats import PlaybackStats
from lighttts.v1 import audio_pb2, tts_pb2

Event: TypeAlias = (
    tts_pb2.Started
    | audio_pb2.AudioChunk
    | tts_pb2.Mark
    | tts_pb2.Spoken
    | tts_pb2.Warning
    | tts_pb2.Resumed
    | tts_pb2.Finished
)


class Output:
    """Numbers and encodes audio, and hands events to a reader, who may have one waiting and no more.

    What `send` and `audio` have returned from is numbered and will be read; a cancelled one has left no trace.
    """

    def __init__(self, sample_format: audio_pb2.SampleFormat.ValueType, stats: PlaybackStats) -> None:
        self.events: Channel[Event] = Channel(1)
        self.sample_rate = 0
        """Samples per second; to be set before the first audio."""
        self.samples = 0
        """Samples sent so far."""
        self._sequence = 0
        self._format = sample_format
        self._stats = stats

    async def send(self, event: Event) -> None:
        await self.events.send(event)

    async def audio(self, pcm: bytes, *, last: bool) -> None:
        """Sends float32 samples; `last` marks the end of an utterance."""
        samples = len(pcm) // FLOAT_BYTES
        if not samples and not last:
            return
        chunk = audio_pb2.AudioChunk(
            sequence=self._sequence,
            first_sample=self.samples,
            pcm=encode(pcm, self._format),
            format=self._format,
            sample_rate=self.sample_rate,
            last=last,
        )
        await self.events.send(chunk)
        self._sequence += 1
        self.samples += samples
        if samples:
            self._stats.audio(samples / self.sample_rate)
