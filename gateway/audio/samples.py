"""Sample layouts: services exchange 32-bit floats, most clients expect 16-bit integers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FLOAT_BYTES = 4


def to_s16le(pcm: bytes) -> bytes:
    """Convert float32 samples to signed 16-bit ones: full scale is 32768, rounded to nearest, clipped, NaN is 0.

    Samples of 16-bit audio, divided by 32768, are restored exactly.
    """
    samples = np.nan_to_num(np.frombuffer(pcm, dtype="<f4"), nan=0.0, posinf=1.0, neginf=-1.0)
    scaled = np.rint(np.clip(samples, -1.0, 1.0) * np.float32(32768.0))
    integers: NDArray[np.int16] = np.minimum(scaled, 32767).astype("<i2")
    return integers.tobytes()


def amplified(pcm: bytes, gain: float) -> bytes:
    """Return float32 samples times `gain`, clipped at full scale if they become louder."""
    if gain == 1:
        return pcm
    samples = np.frombuffer(pcm, dtype="<f4") * np.float32(gain)
    return (np.clip(samples, -1.0, 1.0) if gain > 1 else samples).astype("<f4", copy=False).tobytes()
