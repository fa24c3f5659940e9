"""Recognises one of some known sentences, if the package pocketsphinx is installed."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.encode.voice.features import resample

RATE = 16000


class Recogniser:
    """Recognise with a closed grammar: the result is one of the sentences, or none."""

    def __init__(self, sentences: Sequence[str]) -> None:
        """Raises ImportError without pocketsphinx."""
        from pocketsphinx import Decoder  # optional, and only this class uses it

        self._sentences = {_words(sentence): sentence for sentence in sentences}
        grammar = " | ".join(self._sentences)
        self._decoder = Decoder(loglevel="FATAL", lm=None)
        self._decoder.add_jsgf_string("known", f"#JSGF V1.0;\ngrammar known;\npublic <sentence> = {grammar};\n")
        self._decoder.activate_search("known")

    def hear(self, samples: NDArray[np.float32], rate: int) -> str | None:
        """Return the sentence recognised in `samples` [n] in [-1, 1], or None."""
        audio = np.clip(resample(samples, rate, RATE), -1, 1)
        self._decoder.start_utt()
        self._decoder.process_raw((audio * 32767).astype("<i2").tobytes(), full_utt=True)
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        return self._sentences.get(hypothesis.hypstr) if hypothesis else None


def recogniser_for(sentences: Sequence[str]) -> Recogniser | None:
    """Return a recogniser of these sentences, or None if pocketsphinx is not installed."""
    try:
        return Recogniser(sentences)
    except ImportError:
        return None


def _words(sentence: str) -> str:
    return re.sub(r"[^a-z' ]", "", sentence.lower())
