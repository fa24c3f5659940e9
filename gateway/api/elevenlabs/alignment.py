"""Times of the characters of a text, in the two forms of ElevenLabs' API: for its WebSocket and for its HTTP routes."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from gateway.api.common.word_times import TimedWord, character_times, timed_words
from gateway.session.output import Events
from lighttts.v1 import audio_pb2, tts_pb2

PART_BYTES = 2**15
"""Most bytes of audio in one message: Pipecat's HTTP service reads lines of at most 128 kB, and base64 adds a third."""


@dataclass(frozen=True)
class Characters:
    """Consecutive characters of the text, each with its begin and end in milliseconds."""

    text: str
    times: list[tuple[int, int]]

    def for_socket(self) -> dict[str, Any]:
        return {
            "chars": list(self.text),
            "charStartTimesMs": [start for start, _ in self.times],
            "charDurationsMs": [end - start for start, end in self.times],
        }

    def for_http(self) -> dict[str, Any]:
        return {
            "characters": list(self.text),
            "character_start_times_seconds": [start / 1000 for start, _ in self.times],
            "character_end_times_seconds": [end / 1000 for _, end in self.times],
        }


class TextAlignment:
    """Gives the characters of a stream's text their times, piece by piece, as the audio is sent.

    A piece ends with a word whose end is known. `relative`: the times of each piece count from the end of the piece
    before, as ElevenLabs' WebSocket has them, so that their spans add up; otherwise from the stream's start.
    """

    def __init__(self, *, relative: bool) -> None:
        self._relative = relative
        self._text = ""
        """From character `_offset` on."""
        self._offset = 0
        self._until = 0
        """End of the last piece, in milliseconds of the stream's audio."""
        self._marks: deque[int] = deque()
        """Characters of the stream's text before each flush whose audio has not been sent."""
        self._timed = False
        """Whether words have had times."""

    def add(self, text: str) -> None:
        """Append text that is to be spoken."""
        self._text += text

    def mark(self) -> None:
        """Record a flush of all text so far."""
        self._marks.append(self._offset + len(self._text))

    def marked(self) -> Characters | None:
        """Return what is left of the text before the first flush, all of whose audio has been sent: blanks and marks,
        which get no time."""
        return self._rest(self._marks.popleft() if self._marks else self._offset)

    def finished(self) -> Characters | None:
        """Return what is left of the text."""
        return self._rest(self._offset + len(self._text))

    def cut(self) -> None:
        """Leave out the text that has no times, because its speech was cut off."""
        self._drop(len(self._text))

    def chunk(self, chunk: audio_pb2.AudioChunk) -> Characters | None:
        """Return the characters up to the end of the last word that comes with a chunk."""
        words = timed_words(chunk, finished=True)
        if not words or words[-1].end is None:
            return None
        return self._take(words, words[-1].offset + words[-1].length, words[-1].end)

    def utterance(self, chunk: audio_pb2.AudioChunk, offset: int, end: float) -> Characters | None:
        """Return the rest of an utterance, whose last chunk this is. `offset` and `end`: characters of the stream's
        text and seconds of its audio that have been sent then. Without times of words, its text is left out."""
        if chunk.alignment == audio_pb2.ALIGNMENT_WORD:
            return self._take(timed_words(chunk, finished=True), offset, end)
        self._drop(offset - self._offset)
        self._timed = False
        return None

    def _rest(self, offset: int) -> Characters | None:
        text = self._drop(offset - self._offset)
        at = 0 if self._relative else self._until
        return Characters(text, [(at, at)] * len(text)) if text and self._timed else None

    def _take(self, words: list[TimedWord], offset: int, end: float) -> Characters | None:
        self._timed = True
        length, begin = min(offset - self._offset, len(self._text)), self._until / 1000
        if length <= 0:
            return None
        shifted = [
            dataclasses.replace(
                word, offset=word.offset - self._offset, start=word.start - begin, end=word.end and word.end - begin
            )
            for word in words
        ]
        before = 0 if self._relative else self._until
        spans = character_times(length, shifted, end - begin)
        starts = [before + round(1000 * start) for start, _ in spans]
        ends = [max(start, before + round(1000 * stop)) for start, (_, stop) in zip(starts, spans, strict=True)]
        # Two characters that meet must do so after rounding, too.
        following = [*starts[1:], ends[-1]]
        times = [
            (start, after if start <= after <= stop + 1 else stop)
            for start, stop, after in zip(starts, ends, following, strict=True)
        ]
        text = self._drop(length)
        self._until += times[-1][1] - before
        return Characters(text, times)

    def _drop(self, length: int) -> str:
        dropped, self._text = self._text[: max(0, length)], self._text[max(0, length) :]
        self._offset += len(dropped)
        return dropped


async def aligned_audio(events: Events, alignment: TextAlignment) -> AsyncGenerator[tuple[bytes, Characters | None]]:
    """Yield the audio of a session in parts, and with them the characters whose times are known with them.

    The end of an utterance waits for the event after it, which follows at once and tells how far the text has been
    spoken. Without that event, its audio is sent before that of the event that follows.
    """
    rate = 1
    last: audio_pb2.AudioChunk | None = None
    async for event in events:
        found: list[tuple[bytes, Characters | None]] = []
        if last is not None and isinstance(event, audio_pb2.AudioChunk | tts_pb2.Finished):
            found.append((last.pcm, alignment.chunk(last)))
            last = None
        match event:
            case tts_pb2.Started():
                rate = event.sample_rate
            case audio_pb2.AudioChunk() if event.last:
                last = event
            case audio_pb2.AudioChunk():
                found.append((event.pcm, alignment.chunk(event)))
            case tts_pb2.Spoken() if event.cut:
                last = None
                alignment.cut()
            case tts_pb2.Spoken() if last is not None:
                found.append((last.pcm, alignment.utterance(last, event.text_offset, event.sample / rate)))
                last = None
            case tts_pb2.Mark():
                found.append((b"", alignment.marked()))
            case tts_pb2.Finished():
                found.append((b"", alignment.finished()))
        for audio, characters in found:
            for start in range(0, max(len(audio), 1), PART_BYTES):
                yield audio[start : start + PART_BYTES], None if start else characters
