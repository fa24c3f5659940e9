"""A measure of intelligibility: pocketsphinx chooses among the 25 held-out sentences only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from cli.model import recognition
from services.common.settings import EMBEDDED_MODEL

SENTENCES = tuple((EMBEDDED_MODEL / "heldout25.txt").read_text(encoding="utf-8").split("\n")[:25])
RECORDINGS = Path(__file__).parents[1] / "data" / "heldout25_teacher"
RECORDING_RATE = 16000


def recording(number: int) -> NDArray[np.float32]:
    """Return the recording of `SENTENCES[number]`: float32 [n] at RECORDING_RATE."""
    samples, rate = soundfile.read(RECORDINGS / f"{number + 1:02d}.flac", dtype="float32")
    if rate != RECORDING_RATE:
        raise ValueError(f"recording {number + 1} has {rate} Hz")
    return samples


class Recogniser:
    """Recognise with a closed grammar: the result is one of the held-out sentences, or none."""

    def __init__(self) -> None:
        self._recogniser = recognition.Recogniser(SENTENCES)

    def hear(self, samples: NDArray[np.float32], rate: int) -> int | None:
        """Return the number of the sentence recognised in `samples` [n] in [-1, 1], or None."""
        heard = self._recogniser.hear(samples, rate)
        return None if heard is None else SENTENCES.index(heard)
