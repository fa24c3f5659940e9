"""Latency, underrun and real-time factor of one stream, as its listener experiences them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from gateway import metrics
from lighttts.v1 import llm_pb2, tts_pb2


@dataclass
class SpeechTimes:
    """When the steps to an utterance's first audio happened. Times are on the monotonic clock, in seconds."""

    asked_at: float = 0.0
    """Call of the first llm worker; 0 before it."""
    called_at: float = 0.0
    """Call of the llm worker that produced the first audio."""
    first: llm_pb2.FirstTimes = field(default_factory=llm_pb2.FirstTimes)
    """Durations measured by that worker, from its call on."""


@dataclass
class _TurnTimes:
    """The text between two flushes."""

    first_text: float
    characters: int = 0
    first_audio: float | None = None
    flushed: bool = False
    text_tokens: int | None = None
    """Of the stream, up to the end of this turn; None until its text has been read."""


class PlaybackStats:
    """Compares text in and audio out with a listener who plays each chunk as soon as possible.

    Seconds without pending text count neither as work nor as underrun.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first_text: float | None = None
        self._first_audio: float | None = None
        self._times = SpeechTimes()
        self._first: tts_pb2.FirstAudio | None = None
        self._first_taken = False
        self._busy_since: float | None = None
        self._last_audio = 0.0
        self._dry_at: float | None = None
        """Time at which all sent audio has been played; None before the first chunk and after a pause."""
        self._busy_seconds = 0.0
        self._audio_seconds = 0.0
        self._underrun_seconds = 0.0
        self._chunks = 0
        self._decode_workers: list[str] = []
        self._text_tokens = 0
        self._speech_tokens = 0
        self._turns: deque[_TurnTimes] = deque()
        """The turns of which audio is not complete, oldest first."""
        self._before_turn: tuple[float, int, int] = (0.0, 0, 0)
        """Audio seconds, text tokens and speech tokens at the end of the last turn."""

    def on_text(self, characters: int = 0) -> None:
        """Record that text arrived."""
        now = self._clock()
        if not self._turns or self._turns[-1].flushed:
            self._turns.append(_TurnTimes(now))
        self._turns[-1].characters += characters
        if self._first_text is None:
            self._first_text = now
        if self._busy_since is None:
            self._busy_since = self._last_audio = now

    def on_flush(self) -> None:
        """Record that the text so far is to be spoken now; the text that follows is another turn."""
        if not self._turns or self._turns[-1].flushed:
            self._turns.append(_TurnTimes(self._clock()))
        self._turns[-1].flushed = True

    def on_turn_read(self) -> None:
        """Record that all text before the next flush has become tokens."""
        for turn in self._turns:
            if turn.text_tokens is None:
                turn.text_tokens = self._text_tokens
                return

    def turn_finished(self) -> tts_pb2.TurnFinished:
        """Return the figures of the oldest flushed turn, whose audio has been sent."""
        turn = self._turns.popleft() if self._turns else _TurnTimes(self._clock())
        text = self._text_tokens if turn.text_tokens is None else turn.text_tokens
        now = (self._audio_seconds, text, self._speech_tokens)
        seconds, text_tokens, speech_tokens = (new - old for new, old in zip(now, self._before_turn, strict=True))
        self._before_turn = now
        return tts_pb2.TurnFinished(
            audio_seconds=seconds,
            characters=turn.characters,
            text_tokens=int(text_tokens),
            speech_tokens=int(speech_tokens),
            time_to_first_audio=0.0 if turn.first_audio is None else turn.first_audio - turn.first_text,
        )

    def drop_turns(self) -> None:
        """Record a cancel: turns that have not ended have no figures."""
        self._turns.clear()
        self._before_turn = (self._audio_seconds, self._text_tokens, self._speech_tokens)

    def begin_utterance(self, times: SpeechTimes) -> None:
        """Record that the next audio belongs to the utterance with these times."""
        self._times = times

    def on_audio(self, seconds: float, *, speech: bool = True) -> None:
        """Record that a chunk was sent. Silence that the text asks for is not the first audio."""
        now = self._clock()
        if self._first_audio is None and speech:
            self._first_audio = now
            if self._first_text is not None:
                self._first = _split(self._first_text, self._times, now)
                metrics.observe_first_audio(self._first)
        if self._turns and self._turns[0].first_audio is None:
            self._turns[0].first_audio = now
        if self._dry_at is None:
            self._dry_at = now
        late = max(0.0, now - self._dry_at)
        self._dry_at += late + seconds
        self._underrun_seconds += late
        self._audio_seconds += seconds
        self._chunks += 1
        self._last_audio = now
        metrics.AUDIO_SECONDS.inc(seconds)
        metrics.UNDERRUN_SECONDS.inc(late)

    def take_first_audio(self) -> tts_pb2.FirstAudio | None:
        """Return the time to first audio by stage, once, as soon as it is known; otherwise None."""
        if self._first is None or self._first_taken:
            return None
        self._first_taken = True
        return self._first

    def pause(self) -> None:
        """Record that all audio for the text so far was sent or cancelled."""
        if self._busy_since is not None:
            self._busy_seconds += self._last_audio - self._busy_since
        self._busy_since = self._dry_at = None

    def add_text_tokens(self, text_tokens: int) -> None:
        """Count text tokens that the model was given to speak."""
        self._text_tokens += text_tokens

    def end_utterance(self, decode_worker: str, speech_tokens: int = 0) -> None:
        """Record that an utterance of `speech_tokens` tokens was sent; `decode_worker` finished it."""
        self._decode_workers.append(decode_worker)
        self._speech_tokens += speech_tokens

    @property
    def audio_seconds(self) -> float:
        """Seconds of audio sent so far."""
        return self._audio_seconds

    @property
    def tokens(self) -> tuple[int, int]:
        """Text tokens read and speech tokens sent so far."""
        return self._text_tokens, self._speech_tokens

    def finished(self) -> tts_pb2.Finished:
        """End the stream and return its figures."""
        self.pause()
        factor = self._busy_seconds / self._audio_seconds if self._audio_seconds else 0.0
        if self._audio_seconds:
            metrics.REAL_TIME_FACTOR.observe(factor)
        return tts_pb2.Finished(
            time_to_first_audio=self._first.seconds if self._first is not None else 0.0,
            first_audio=self._first,
            audio_seconds=self._audio_seconds,
            real_time_factor=factor,
            underrun_seconds=self._underrun_seconds,
            chunks=self._chunks,
            decode_workers=self._decode_workers,
            text_tokens=self._text_tokens,
            speech_tokens=self._speech_tokens,
        )


def _split(first_text: float, times: SpeechTimes, now: float) -> tts_pb2.FirstAudio:
    """Split the time to first audio by stage. No stage ends before the previous one; the last has the remainder."""
    lost = times.called_at - times.asked_at  # time spent on workers that failed
    ends = [times.asked_at - first_text]
    for measured in (times.first.token, times.first.hop, times.first.audio):
        ends.append(min(now - first_text, max(ends[-1], ends[0] + lost + measured)))
    encode, first_token, first_hop, decode = ends[0], *(after - before for before, after in pairwise(ends))
    return tts_pb2.FirstAudio(
        seconds=now - first_text,
        encode=encode,
        first_token=first_token,
        first_hop=first_hop,
        decode=decode,
        delivery=now - first_text - ends[-1],
    )
