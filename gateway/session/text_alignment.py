"""Which text the audio speaks: utterance by utterance exactly, within one by the voice's pace."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass
class _Passage:
    """An utterance in a stream's text (characters) and audio (samples). The ends grow while it is spoken."""

    from_text: int
    from_sample: int
    to_text: int = 0
    to_sample: int | None = None
    """None while more of it may come."""


class TextAlignment:
    """Follows a stream's utterances, in order."""

    def __init__(self) -> None:
        self.pace = 0.0
        """Characters per sample, as this voice speaks; 0 while unknown."""
        self._passages: deque[_Passage] = deque()
        self._exact = 0
        """Characters before all passages that are kept."""

    def begin(self, from_text: int, sample: int) -> None:
        """An utterance whose text begins at `from_text` is sent from `sample` on."""
        self._passages.append(_Passage(from_text, sample, from_text))

    def reaches(self, to_text: int) -> None:
        """The text of the utterance under way goes at least so far."""
        self._passages[-1].to_text = to_text

    def end(self, sample: int) -> None:
        """It was sent whole, to before `sample`."""
        passage = self._passages[-1]
        passage.to_sample = sample
        if sample > passage.from_sample:
            self.pace = (passage.to_text - passage.from_text) / (sample - passage.from_sample)

    def forget(self, sample: int) -> None:
        """The listener is past `sample`; nobody will ask for what was before."""
        while self._passages and (end := self._passages[0].to_sample) is not None and end <= sample:
            self._exact = self._passages.popleft().to_text

    def heard(self, sample: int) -> tuple[int, bool]:
        """The text offset reached at `sample`, and whether that is an estimate. Never more than was asked for."""
        self.forget(sample)
        if not self._passages or sample <= self._passages[0].from_sample:
            return (self._passages[0].from_text if self._passages else self._exact), False
        passage = self._passages[0]
        length = passage.to_text - passage.from_text
        done = sample - passage.from_sample
        if passage.to_sample is not None:
            share = length * done // (passage.to_sample - passage.from_sample)
        else:
            share = min(length, int(done * self.pace))
        return passage.from_text + share, True
