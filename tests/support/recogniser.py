"""A measure of intelligibility: pocketsphinx chooses among the 25 held-out sentences only."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from pocketsphinx import Decoder

from services.common.settings import EMBEDDED_MODEL
from services.encode.voice.features import resample

SENTENCES = tuple((EMBEDDED_MODEL / "heldout25.txt").read_text(encoding="utf-8").split("\n")[:25])
RECORDINGS = Path(__file__).parents[1] / "data" / "heldout25"
RECORDING_RATE = 16000
RECOGNISER_RATE = 16000


def recording(number: int) -> NDArray[np.float32]:
    """Return the recording of `SENTENCES[number]`: float32 [n] at RECORDING_RATE."""
    samples, rate = soundfile.read(RECORDINGS / f"{number + 1:02d}.flac", dtype="float32")
    if rate != RECORDING_RATE:
        raise ValueError(f"recording {number + 1} has {rate} Hz")
    return samples


class Recogniser:
    """Recognise with a closed grammar: the result is one of the held-out sentences, or none."""

    def __init__(self) -> None:
        words = " | ".join(_words(sentence) for sentence in SENTENCES)
        self._decoder = Decoder(loglevel="FATAL", lm=None)
        self._decoder.add_jsgf_string("heldout", f"#JSGF V1.0;\ngrammar heldout;\npublic <sentence> = {words};\n")
        self._decoder.activate_search("heldout")

    def hear(self, samples: NDArray[np.float32], rate: int) -> int | None:
        """Return the number of the sentence recognised in `samples` [n] in [-1, 1], or None."""
        audio = np.clip(resample(samples, rate, RECOGNISER_RATE), -1, 1)
        self._decoder.start_utt()
        self._decoder.process_raw((audio * 32767).astype("<i2").tobytes(), full_utt=True)
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        understood = {_words(sentence): number for number, sentence in enumerate(SENTENCES)}
        return understood.get(hypothesis.hypstr) if hypothesis else None


def _words(sentence: str) -> str:
    return re.sub(r"[^a-z' ]", "", sentence.lower())
