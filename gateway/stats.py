"""A stream's figures, as the listener feels them."""

from __future__ import annotations

import time
from collections.abc import Callable

from gateway import metrics
from lighttts.v1 import tts_pb2


class PlaybackStats:
    """Follows text in and audio out against a listener who plays each chunk on as soon as it can.

    Seconds in which nothing was asked for count neither as work nor as underrun.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first_text: float | None = None
        self._first_audio: float | None = None
        self._busy_since: float | None = None
        self._last_audio = 0.0
        self._dry_at: float | None = None
        """When the listener has played everything sent; None before the first chunk and after a pause."""
        self._busy_seconds = 0.0
        self._audio_seconds = 0.0
        self._underrun_seconds = 0.0
        self._chunks = 0
        self._decode_workers: list[str] = []
        self._text_tokens = 0
        self._speech_tokens = 0

    def text(self) -> None:
        """Text arrived."""
        now = self._clock()
        if self._first_text is None:
            self._first_text = now
        if self._busy_since is None:
            self._busy_since = self._last_audio = now

    def audio(self, seconds: float) -> None:
        """A chunk went out."""
        now = self._clock()
        if self._first_audio is None:
            self._first_audio = now
            if self._first_text is not None:
                metrics.TIME_TO_FIRST_AUDIO.observe(now - self._first_text)
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

    def pause(self) -> None:
        """Everything asked for was sent or cancelled."""
        if self._busy_since is not None:
            self._busy_seconds += self._last_audio - self._busy_since
        self._busy_since = self._dry_at = None

    def read(self, text_tokens: int) -> None:
        """The model got so many tokens of text to speak."""
        self._text_tokens += text_tokens

    def utterance(self, decode_worker: str, speech_tokens: int = 0) -> None:
        """An utterance of so many tokens was sent; `decode_worker` finished it."""
        self._decode_workers.append(decode_worker)
        self._speech_tokens += speech_tokens

    def finished(self) -> tts_pb2.Finished:
        """The figures at the end of the stream."""
        self.pause()
        first = 0.0
        if self._first_audio is not None and self._first_text is not None:
            first = self._first_audio - self._first_text
        factor = self._busy_seconds / self._audio_seconds if self._audio_seconds else 0.0
        if self._audio_seconds:
            metrics.REAL_TIME_FACTOR.observe(factor)
        return tts_pb2.Finished(
            time_to_first_audio=first,
            audio_seconds=self._audio_seconds,
            real_time_factor=factor,
            underrun_seconds=self._underrun_seconds,
            chunks=self._chunks,
            decode_workers=self._decode_workers,
            text_tokens=self._text_tokens,
            speech_tokens=self._speech_tokens,
        )
