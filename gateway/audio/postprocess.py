"""Optional steps before encoding: trim the silence at the start, normalize the loudness.

Both process whole frames of 10 ms, counted from the start of an utterance, so their result does not depend on how the
samples are cut into pieces. Both hold back less than two frames and return them when the utterance ends.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

FRAME_SECONDS = 0.01


class Frames:
    """Cuts one utterance's samples into whole frames."""

    def __init__(self, rate: int) -> None:
        self.length = round(rate * FRAME_SECONDS)
        self._rest = np.zeros(0, np.float32)

    def push(self, samples: Samples, *, last: bool) -> Samples:
        """Return all whole frames, concatenated; with `last` also the rest, and a new utterance follows."""
        joined = np.concatenate([self._rest, samples])
        end = len(joined) if last else len(joined) - len(joined) % self.length
        self._rest = joined[end:]
        return joined[:end]

    def energies(self, samples: Samples) -> NDArray[np.float64]:
        """Return the mean square of each frame in the result of `push`; the last frame may be short."""
        starts = np.arange(0, len(samples), self.length)
        lengths = np.diff(np.append(starts, len(samples)))
        squares = np.square(samples, dtype=np.float64)
        return np.add.reduceat(squares, starts) / lengths if len(starts) else np.zeros(0)

    def restart(self) -> None:
        self._rest = np.zeros(0, np.float32)


class SilenceTrimmer:
    """Drops silence before the first sound after `arm`; a few frames before the sound are kept as a run-up."""

    THRESHOLD = 10 ** (-45 / 10)
    """Smallest mean square of a frame with sound; full scale is 1."""
    RUN_UP_FRAMES = 4
    MAX_DROPPED_FRAMES = 200
    """Frames that are dropped at most (2 s); a longer silence is intended."""

    def __init__(self, rate: int) -> None:
        self._frames = Frames(rate)
        self.removed = 0
        """Samples of the utterance that were received and not returned; once sound has begun, those dropped."""
        self._ended = False
        self._armed = True
        self._dropped = 0
        self._run_up = np.zeros(0, np.float32)

    def arm(self) -> None:
        """Trim the silence before the next sound."""
        self._armed = True
        self._dropped = 0

    def push(self, samples: Samples, *, last: bool) -> Samples:
        """Return the samples to send; none for an utterance without sound."""
        if self._ended:
            self.removed = 0
        self._ended = last
        kept = self._trimmed(samples, last=last)
        self.removed += len(samples) - len(kept)
        return kept

    def _trimmed(self, samples: Samples, *, last: bool) -> Samples:
        if not self._armed:
            return samples
        framed = self._frames.push(samples, last=last)
        sounding = np.flatnonzero(self._frames.energies(framed) >= self.THRESHOLD)
        frames = -(-len(framed) // self._frames.length)
        first = min(int(sounding[0]) if len(sounding) else frames, max(0, self.MAX_DROPPED_FRAMES - self._dropped))
        self._dropped += first
        cut = first * self._frames.length
        run_up = self.RUN_UP_FRAMES * self._frames.length
        held = np.concatenate([self._run_up, framed[:cut]])[-run_up:]
        if first == frames:
            self._run_up = np.zeros(0, np.float32) if last else held
            return framed[:0]
        self._armed = False
        rest = self._frames.push(np.zeros(0, np.float32), last=True)
        self._run_up = np.zeros(0, np.float32)
        return np.concatenate([held, framed[cut:], rest])

    def restart(self) -> None:
        """Drop the samples held back."""
        self._frames.restart()
        self._run_up = np.zeros(0, np.float32)
        self._ended = True


class LoudnessNormalizer:
    """Brings speech to one loudness: a slow gain towards a target, with no peak above the ceiling.

    Loudness is the mean square of the frames with sound, averaged over about three seconds, across the utterances of a
    stream. The gain follows it by at most 0.1 dB per frame (10 dB per second) and is interpolated between frames.
    A frame is held back until the next one is known, so that the gain can drop before a peak.
    """

    TARGET_DB = -20.0
    GATE = 10 ** (-50 / 10)
    MEMORY_FRAMES = 300
    MAX_GAIN_DB = 12.0
    """Largest gain; more would raise the noise of quieter speech."""
    STEP_DB = 0.1
    CEILING = 10 ** (-1 / 20)

    def __init__(self, rate: int) -> None:
        self._frames = Frames(rate)
        self._gain_db = 0.0
        self._loudness = 0.0
        self._sounding_frames = 0
        self._held = np.zeros(0, np.float32)
        self._held_limit = math.inf
        self._boundary_gain = 1.0

    def push(self, samples: Samples, *, last: bool) -> Samples:
        framed = self._frames.push(samples, last=last)
        length = self._frames.length
        out: list[Samples] = []
        for number, energy in enumerate(self._frames.energies(framed)):
            frame = framed[number * length : (number + 1) * length]
            peak = float(np.abs(frame).max(initial=0.0))
            limit = self.CEILING / peak if peak else math.inf
            gain = self._follow(float(energy))
            out.append(self._apply(min(gain, limit, self._held_limit)))
            self._held, self._held_limit = frame, limit
        if last:
            out.append(self._apply(min(10 ** (self._gain_db / 20), self._held_limit)))
            self._held, self._held_limit = self._held[:0], math.inf
        return np.concatenate([*out, framed[:0]])

    def _follow(self, energy: float) -> float:
        """Return the gain after a frame of this energy."""
        if energy > self.GATE:
            self._sounding_frames += 1
            self._loudness += (energy - self._loudness) / min(self._sounding_frames, self.MEMORY_FRAMES)
            wanted = self.TARGET_DB - 10 * math.log10(self._loudness)
            change = min(self.MAX_GAIN_DB, wanted) - self._gain_db
            self._gain_db += max(-self.STEP_DB, min(self.STEP_DB, change))
        return float(10 ** (self._gain_db / 20))

    def _apply(self, gain: float) -> Samples:
        """Return the held frame; its gain changes linearly from the gain of the previous boundary to `gain`."""
        start, self._boundary_gain = min(self._boundary_gain, self._held_limit), gain
        glide = np.linspace(start, gain, len(self._held), endpoint=False)
        return (self._held * glide).astype(np.float32)

    def restart(self) -> None:
        """Drop the samples held back; keep the loudness measured so far."""
        self._frames.restart()
        self._held, self._held_limit = self._held[:0], math.inf
