"""Streaming change of the sample rate."""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray


class Resampler:
    """soxr at high quality (pass band to 0.91 of the lower Nyquist rate). n samples become round(n * to / from).

    The output does not depend on how the samples are cut into pieces. The filter's length, up to 75 ms, is held back
    until the run of samples ends.
    """

    def __init__(self, from_rate: int, to_rate: int) -> None:
        self._same = from_rate == to_rate
        self._stream = soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality="HQ")

    def push(self, samples: NDArray[np.float32], *, last: bool) -> NDArray[np.float32]:
        """Return the final part of the output; with `last` all of it, and the next sample begins a new run."""
        if self._same:
            return samples
        resampled: NDArray[np.float32] = self._stream.resample_chunk(samples, last=last)
        if last:
            self._stream.clear()
        return resampled

    def restart(self) -> None:
        """Drop the samples held back."""
        self._stream.clear()
