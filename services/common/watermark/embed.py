"""Puts the mark into audio as it is made."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from services.common.watermark.codebook import (
    BAND_BINS,
    BLOCK,
    FIRST_BIN,
    LAST_BIN,
    PERIOD,
    SAMPLE_RATE,
    WINDOW,
    codebook,
)

LOW_HZ, HIGH_HZ = 500.0, 3000.0
LOW_DB, HIGH_DB = 0.3, 2.5
"""By how much a cell becomes louder or softer in the middle of its block: `LOW_DB` up to `LOW_HZ`, `HIGH_DB` from
`HIGH_HZ` on, on a line between them. Changes of the voice's lower harmonics are heard first."""


def depth_db() -> NDArray[np.float64]:
    """Return the depth of each bin that is marked, in dB."""
    return np.interp(np.arange(FIRST_BIN, LAST_BIN) * SAMPLE_RATE / BLOCK, [LOW_HZ, HIGH_HZ], [LOW_DB, HIGH_DB])


class Watermark:
    """The mark of one key and payload. It has no state, so threads may share it.

    The mark of a block depends on the block's samples and its number alone. Audio that is made in any pieces, by any
    workers, is therefore marked as if it had been made at once, as long as the pieces begin at multiples of a block.
    """

    def __init__(self, key: bytes, payload: int) -> None:
        """`payload` has 16 bits: by convention the key's number and the deployment's. Raises ValueError for more."""
        if not 0 <= payload < 2**16:
            raise ValueError(f"a payload has 16 bits, {payload} does not fit")
        signs = np.repeat(codebook(key).chips(payload), BAND_BINS, axis=1)
        self._gain = signs * (10 ** (depth_db() / 20) - 1)
        """What is added to each bin, in parts of it: [PERIOD, bins]."""

    def apply(self, first_sample: int, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return `samples` [n] of an utterance, from absolute sample `first_sample` on, with the mark.

        What does not fill a block remains as it is: the end of the last piece.
        """
        skip = -first_sample % BLOCK
        count = max(0, (len(samples) - skip) // BLOCK)
        if not count:
            return samples
        numbers = (first_sample + skip) // BLOCK + np.arange(count)
        blocks = samples[skip : skip + count * BLOCK].reshape(count, BLOCK)
        spectrum = np.fft.rfft(blocks * WINDOW, axis=1)
        change = np.zeros_like(spectrum)
        change[:, FIRST_BIN:LAST_BIN] = spectrum[:, FIRST_BIN:LAST_BIN] * self._gain[numbers % PERIOD]
        marked = samples.copy()
        marked[skip : skip + count * BLOCK] += (
            (np.fft.irfft(change, BLOCK, axis=1) * WINDOW).reshape(-1).astype(np.float32)
        )
        return marked
