"""Times of words and of characters, in seconds of the audio, for the APIs that report them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lighttts.v1 import audio_pb2


@dataclass(frozen=True)
class TimedWord:
    """A word of the text: characters [offset, offset + length), spoken from `start` to `end` seconds."""

    offset: int
    length: int
    start: float
    end: float | None
    """None: the word goes on; it comes again with its end."""
    confidence: float

    def text(self, whole: str) -> str:
        """Return the word as `whole`, the stream's text, has it."""
        return whole[self.offset : self.offset + self.length]


def timed_words(chunk: audio_pb2.AudioChunk, *, after: float = 0.0, finished: bool = False) -> list[TimedWord]:
    """Return the words that come with a chunk. `after`: seconds of audio before the stream's. `finished`: leave out
    words that go on."""
    rate = max(1, chunk.sample_rate)
    return [
        TimedWord(
            word.text_offset,
            word.length,
            after + word.first_sample / rate,
            None if word.open else after + (word.first_sample + word.samples) / rate,
            word.confidence,
        )
        for word in chunk.words
        if not (finished and word.open)
    ]


def character_times(length: int, words: Iterable[TimedWord], end: float) -> list[tuple[float, float]]:
    """Return the start and the end, in seconds, of each of the `length` characters of a text.

    The characters of a word share its time evenly. Those between two words, such as blanks and marks, have the time
    between these. `end`: seconds of the audio of the whole text. `words` are finished and in order.
    """
    times: list[tuple[float, float]] = []
    spoken_until = 0.0
    for word in words:
        if word.end is None or word.offset < len(times):
            continue
        times += _shared(spoken_until, word.start, min(word.offset, length) - len(times))
        spoken_until = max(spoken_until, word.end)
        times += _shared(word.start, word.end, min(word.offset + word.length, length) - len(times))
    return times + _shared(spoken_until, max(end, spoken_until), length - len(times))


def _shared(start: float, end: float, count: int) -> list[tuple[float, float]]:
    """Divide a time evenly."""
    step = max(0.0, end - start) / max(1, count)
    return [(start + step * number, start + step * (number + 1)) for number in range(count)]
