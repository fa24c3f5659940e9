"""Stand-ins of the teacher, in a module of their own: processes of the stage import it, and it takes little time."""

from __future__ import annotations

import numpy as np

from training import features
from training.store import Utterance
from training.teacher.labels import FRAME, Labelled
from training.teacher.pronounce import Pronunciation


class FakeTeacher:
    """Speaks a tone whose length and pitch depend on the sentence. Other processes import it by its name."""

    def __init__(self, seed: int, device: str) -> None:
        self._seed = seed
        # The pitch needs a package of the recipe. A process of the stage has its own copy of the module.
        features.pitch = lambda low, frames: np.zeros(frames, dtype=np.float32)

    def speak(self, sentence: int, text: str, said: Pronunciation) -> tuple[Utterance, Labelled]:
        if sentence == 7:
            raise ValueError("the speech is empty")
        frames = 4 + 2 * (sentence % 3)
        samples = (0.1 * np.sin(np.arange(frames * FRAME) * 0.01 * (sentence + 1))).astype(np.float32)
        labelled = Labelled(samples, np.ones(frames, dtype=np.int8), np.zeros(frames, dtype=np.int16))
        return Utterance(sentence, text, self._seed, ((0, 8),), frames), labelled


class BrokenTeacher(FakeTeacher):
    """A teacher that cannot be loaded."""

    def __init__(self, seed: int, device: str) -> None:
        raise RuntimeError("the teacher's package is missing")
