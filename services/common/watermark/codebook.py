"""What a key and a payload mean in time and frequency.

Audio is divided into blocks of 20 ms, counted from the utterance's first sample, and each block into bands of 150 Hz
from 300 Hz to 7.4 kHz. A cell, one band of one block, becomes louder or softer by the sign of its *chip*. The chips
repeat after 64 blocks. Half of the 64 · 47 cells, chosen by the key, carry the payload's first byte, the others its
second: each byte selects one of 256 random sequences of signs, also made from the key.

This is spread spectrum with orthogonal signalling (Cox, Miller, Bloom, Fridrich and Kalker, Digital Watermarking and
Steganography, 2nd edition, chapters 3 and 5), on spectrum magnitudes as in Kirovski and Malvar, IEEE Transactions on
Signal Processing 51(4), 2003.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 24_000
"""Rate at which audio is marked and searched, in Hz."""
BLOCK = 480
"""Samples per block."""
PERIOD = 64
"""Blocks after which the chips repeat."""
BAND_BINS = 3
FIRST_BIN = 6
BANDS = 47
LAST_BIN = FIRST_BIN + BAND_BINS * BANDS
"""Bins of 50 Hz: those of the bands are `FIRST_BIN` up to, not including, `LAST_BIN`."""
CELLS = PERIOD * BANDS
SYMBOLS = 256
WINDOW = np.sin(np.pi * (np.arange(BLOCK) + 0.5) / BLOCK)
"""Applied before and after the transform, so that a block's mark fades to nothing at its ends."""


@dataclass(frozen=True, eq=False)
class Codebook:
    """The sequences of one key."""

    cells: tuple[NDArray[np.intp], NDArray[np.intp]]
    """The cells that carry each byte, as indices into a flattened [PERIOD, BANDS]."""
    signs: tuple[NDArray[np.float32], NDArray[np.float32]]
    """[SYMBOLS, cells of the byte] of 1 and −1."""

    def chips(self, payload: int) -> NDArray[np.float32]:
        """Return the signs [PERIOD, BANDS] of a payload of 16 bits."""
        chips = np.zeros(CELLS, np.float32)
        for cells, signs, symbol in zip(self.cells, self.signs, divmod(payload, SYMBOLS), strict=True):
            chips[cells] = signs[symbol]
        return chips.reshape(PERIOD, BANDS)


@lru_cache(maxsize=32)
def codebook(key: bytes) -> Codebook:
    """Return the sequences of a key; the same key gives the same ones on every machine."""
    bits = np.frombuffer(
        hashlib.shake_256(b"light-tts watermark 1" + key).digest(SYMBOLS * CELLS // 8 + 8 * CELLS), "u1"
    )
    order = np.argsort(bits[-8 * CELLS :].view("<u8"), kind="stable")
    signs = np.unpackbits(bits[: SYMBOLS * CELLS // 8]).reshape(SYMBOLS, CELLS).astype(np.float32) * 2 - 1
    half = CELLS // 2
    return Codebook((order[:half], order[half:]), (signs[:, :half].copy(), signs[:, half:].copy()))
