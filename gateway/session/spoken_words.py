"""The words of an utterance in the stream's audio: each is sent with the audio in which it begins."""

from __future__ import annotations

from gateway.utterance.words import TextWord, UtteranceWords
from lighttts.v1 import audio_pb2


class SpokenWords:
    """Places the words of one utterance, whose audio begins at a sample of the stream."""

    def __init__(self, words: UtteranceWords, first_sample: int, rate: float) -> None:
        """`rate`: samples of the stream per sample of the utterance."""
        self.removed = 0
        """Samples of silence that were trimmed from the utterance's beginning."""
        self._words = words
        self._first_sample = first_sample
        self._rate = rate
        self._next = 0
        self._open: TextWord | None = None

    @property
    def alignment(self) -> audio_pb2.Alignment.ValueType:
        timed = self._words.aligned and bool(self._words.words)
        return audio_pb2.ALIGNMENT_WORD if timed else audio_pb2.ALIGNMENT_UTTERANCE

    def due(self, end: int) -> list[audio_pb2.Word]:
        """Return the words that have not been returned and begin before sample `end`, then the one that went on."""
        found = []
        if self._open is not None and (word := self._placed(self._open)) is not None and not word.open:
            self._open = None
            found.append(word)
        while self._next < len(self._words.words):
            text = self._words.words[self._next]
            word = self._placed(text)
            if word is None or word.first_sample >= end:
                break
            self._next += 1
            self._open = text if word.open else None
            found.append(word)
        return found

    def heard(self, sample: int) -> int | None:
        """Return the end of the last word whose audio ends at or before `sample`, in characters of the stream's text.

        Before the first one it is that word's start. None if words have no times.
        """
        words = self._words.words
        if not words or not self._words.aligned:
            return None
        offset = words[0].start
        for text in words:
            word = self._placed(text)
            if word is None or word.open or word.first_sample + word.samples > sample:
                break
            offset = text.end
        return offset

    def _placed(self, text: TextWord) -> audio_pb2.Word | None:
        span = self._words.spoken(text)
        if span is None:
            return None
        first = self._at(span.first)
        return audio_pb2.Word(
            text_offset=text.start,
            length=text.end - text.start,
            first_sample=first,
            samples=0 if span.end is None else self._at(span.end) - first,
            confidence=span.confidence,
            open=span.end is None,
        )

    def _at(self, sample: float) -> int:
        return self._first_sample + round(max(0.0, sample - self.removed) * self._rate)
