"""The words of an utterance, and the speech tokens that speak them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field

from lighttts.v1 import encode_pb2, llm_pb2


@dataclass(frozen=True)
class TextWord:
    """Text ids [first_id, end_id) of the utterance, and characters [start, end) of the stream's text."""

    first_id: int
    end_id: int
    start: int
    end: int


@dataclass(frozen=True)
class TokenSpan:
    """Where a word is spoken."""

    first: float
    """In samples of the utterance, at the model's rate, before silence is trimmed."""
    end: float | None
    """None: the word goes on in speech that has not been generated."""
    confidence: float


@dataclass
class UtteranceWords:
    """Words come from encode, the text id of each speech token from the llm workers, each only once."""

    words: list[TextWord] = field(default_factory=list)
    complete: bool = False
    """Whether no speech tokens follow."""
    text_position: int | None = None
    """The text id at which the speech is after the utterance's raw ids; another worker continues from it."""
    _samples_per_token: float = 0.0
    _text_ids: list[int] = field(default_factory=list)
    _confidences: list[int] = field(default_factory=list)
    _lost: bool = False
    """Tokens without text ids were generated."""

    @property
    def aligned(self) -> bool:
        """Whether words have times; they lose them if a worker that does not align continues the utterance."""
        return self._samples_per_token > 0 and not self._lost

    def add_words(self, words: Iterable[encode_pb2.EncodedWord], offset: int) -> None:
        """Add words that encode reports; `offset` characters precede its text. Words that are known are left out."""
        for word in words:
            if not self.words or word.first_id >= self.words[-1].end_id:
                place = (word.first_id, word.first_id + word.ids, offset + word.start, offset + word.end)
                self.words.append(TextWord(*place))

    def start(self, samples_per_token: float) -> None:
        """A worker has accepted the utterance, or its rest."""
        self._samples_per_token = samples_per_token or self._samples_per_token

    def add_tokens(self, generated: llm_pb2.GeneratedAudio) -> None:
        """Add the text ids that come with audio."""
        self._text_ids.extend(generated.text_ids)
        self._confidences.extend(generated.confidences)
        known = len(self._text_ids)
        self._lost = self._lost or known != generated.tokens_generated or known != len(self._confidences)
        if generated.HasField("text_position"):
            self.text_position = generated.text_position
        self.complete = self.complete or generated.audio.last

    def restart(self) -> None:
        """Drop what the workers reported; the next one starts the utterance from its beginning."""
        self.complete, self.text_position, self._lost = False, None, False
        self._samples_per_token = 0.0
        self._text_ids, self._confidences = [], []

    def spoken(self, word: TextWord) -> TokenSpan | None:
        """Return where a word is spoken; None if that has not been generated, or never is."""
        if not self.aligned:
            return None
        tokens = len(self._text_ids)
        first = bisect_left(self._text_ids, word.first_id)
        if first == tokens:
            return None
        end = bisect_left(self._text_ids, word.end_id, lo=first)
        confidences = self._confidences[first : max(end, first + 1)]
        return TokenSpan(
            first * self._samples_per_token,
            end * self._samples_per_token if end < tokens or self.complete else None,
            sum(confidences) / (100 * len(confidences)),
        )
