"""A listener who plays audio as soon as it arrives, with nothing in reserve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

GAP_SECONDS = 0.005
"""Shorter silence between two chunks is inaudible, and timers are no more precise."""
AUDIBLE = 10 ** (-50 / 20)
"""Samples below this part of full scale count as silence (−50 dBFS)."""


@dataclass
class Playback:
    """Times in seconds of the monotonic clock."""

    began_at: float | None = None
    """When the first samples arrived."""
    heard_at: float | None = None
    """When the first sample that is not silence was played."""
    ends_at: float = 0.0
    """When the audio received so far will have been played."""
    seconds: float = 0.0
    """Audio received."""
    underruns: int = 0
    """How often there was no audio to play."""
    silence: float = 0.0
    """For how long, in total."""
    worst: float = 0.0
    """For how long, at most."""

    def take(self, now: float, seconds: float) -> None:
        """Count `seconds` of audio that arrived at `now`."""
        gap = now - self.ends_at
        if self.began_at is None:
            self.began_at = now
        elif gap > GAP_SECONDS:
            self.underruns += 1
            self.silence += gap
            self.worst = max(self.worst, gap)
        self.ends_at = max(now, self.ends_at) + seconds
        self.seconds += seconds

    def take_samples(self, now: float, pcm: bytes, sample_rate: int) -> None:
        """Count s16le samples that arrived at `now`, and note when the first audible one is played."""
        seconds = len(pcm) / 2 / sample_rate
        self.take(now, seconds)
        if self.heard_at is None:
            loud = np.flatnonzero(np.abs(np.frombuffer(pcm, dtype="<i2").astype(np.int32)) > AUDIBLE * 32768)
            if len(loud):
                self.heard_at = self.ends_at - seconds + float(loud[0]) / sample_rate
