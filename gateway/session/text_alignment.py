"""Maps audio to text: exactly at the ends of utterances and words; in utterances without word times by the pace."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from gateway.session.spoken_words import SpokenWords


@dataclass
class _Passage:
    """Range of an utterance in the stream's text (characters) and audio (samples). The ends grow while it is spoken."""

    from_text: int
    from_sample: int
    to_text: int = 0
    to_sample: int | None = None
    """None while more audio may follow."""
    words: SpokenWords | None = None


class TextAlignment:
    """Records the text and audio ranges of a stream's utterances, in order."""

    def __init__(self) -> None:
        self.pace = 0.0
        """Characters per sample of this voice; 0 while unknown."""
        self._passages: deque[_Passage] = deque()
        self._exact = 0
        """Characters before all passages that are kept, all of which have been played."""

    def begin(self, from_text: int, sample: int, words: SpokenWords | None = None) -> None:
        """Begin an utterance: its text starts at `from_text`, its audio at `sample`."""
        self._passages.append(_Passage(from_text, sample, from_text, words=words))

    def extend(self, to_text: int) -> None:
        """Record that the current utterance's text extends at least to `to_text`."""
        self._passages[-1].to_text = to_text

    def end(self, sample: int) -> None:
        """End the current utterance: all of its audio, up to `sample`, was sent."""
        passage = self._passages[-1]
        passage.to_sample = sample
        if sample > passage.from_sample:
            self.pace = (passage.to_text - passage.from_text) / (sample - passage.from_sample)

    def end_silence(self, sample: int) -> None:
        """End a passage of silence, which says nothing about the pace."""
        self._passages[-1].to_sample = sample

    def cut(self, to_text: int) -> None:
        """Drop all utterances, as after a barge-in: the next one starts at `to_text` or later.

        The audio of a cancelled utterance never ends, so `discard_before` would keep it and all later ones.
        """
        self._passages.clear()
        self._exact = to_text

    def discard_before(self, sample: int) -> None:
        """Drop utterances that end at or before `sample`, which the listener has played."""
        while self._passages and (end := self._passages[0].to_sample) is not None and end <= sample:
            self._exact = self._passages.popleft().to_text

    def samples_until(self, offset: int, sample: int) -> float:
        """Estimate the samples from `sample`, the last one sent, to the end of the text before `offset`.

        0 while the pace is unknown.
        """
        if not self.pace:
            return 0.0
        text = float(self._exact)
        if self._passages:
            passage = self._passages[-1]
            text = passage.to_text
            if passage.to_sample is None:
                text = min(text, passage.from_text + (sample - passage.from_sample) * self.pace)
        return max(0.0, offset - text) / self.pace

    def offset_at(self, sample: int) -> tuple[int, bool]:
        """Return the text offset reached at `sample`, and whether it is an estimate. Never above the received text.

        It is exact between utterances, and within one whose words have times: there it is the end of the last word that
        ends at or before the sample.
        """
        self.discard_before(sample)
        if not self._passages or sample <= self._passages[0].from_sample:
            return (self._passages[0].from_text if self._passages else self._exact), False
        passage = self._passages[0]
        if passage.words is not None and (offset := passage.words.heard(sample)) is not None:
            return max(passage.from_text, offset), False
        length = passage.to_text - passage.from_text
        done = sample - passage.from_sample
        if passage.to_sample is not None:
            share = length * done // (passage.to_sample - passage.from_sample)
        else:
            share = min(length, int(done * self.pace))
        return passage.from_text + share, True
