"""Whether a recogniser understands the teacher: pocketsphinx with its own English model."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.encode.voice.features import TOKEN_RATE, resample
from training.report.words import spelled, word_errors
from training.teacher.kokoro import RATE

MOST_ERRORS = 0.5
"""Of the sentence's words. The recogniser itself makes about 0.15 errors per word on clear speech."""


class Listener:
    """Open recognition. Takes a second to make."""

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        self._decoder: Any = Decoder(loglevel="FATAL")

    def hear(self, samples: NDArray[np.float32], rate: int) -> str:
        """Return the recognised words, in lower case."""
        low = resample(samples, rate, TOKEN_RATE)
        scaled = low / max(1e-6, float(np.abs(low).max())) * 0.7
        padded = np.pad(scaled, 3200) + np.random.default_rng(0).normal(0, 1e-4, len(scaled) + 6400)
        self._decoder.start_utt()
        self._decoder.process_raw((padded * 32767).astype(np.int16).tobytes(), full_utt=True)
        self._decoder.end_utt()
        result = self._decoder.hyp()
        return spelled(result.hypstr) if result else ""

    def understands(self, samples: NDArray[np.float32], text: str) -> bool:
        """Whether few words of `samples` at the teacher's rate are misunderstood."""
        wanted = spelled(text)
        return word_errors(wanted, self.hear(samples, RATE)) <= MOST_ERRORS * len(wanted.split())
