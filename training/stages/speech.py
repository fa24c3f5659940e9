"""Stage speech: the teacher speaks the sentences, in shards, until there are enough hours."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from training.features import features
from training.plan import Plan
from training.store import Store, Utterance, write_shard
from training.teacher.check import Listener
from training.teacher.kokoro import Kokoro
from training.teacher.labels import Labelled, label
from training.teacher.pronounce import Pronouncer, Pronunciation, UnknownWord
from training.teacher.speakers import SPEAKERS, pace_of, speaker_of
from training.work import Progress, Work


class Teacher:
    """Speaks sentences of the set."""

    def __init__(self, seed: int) -> None:
        self._kokoro, self._pronounce, self._seed = Kokoro(), Pronouncer(), seed
        self._styles = [self._kokoro.style(speaker.blend) for speaker in SPEAKERS]

    def speak(self, sentence: int, text: str) -> tuple[Utterance, Labelled]:
        """Speak a sentence by its speaker. Raises UnknownWord, ValueError."""
        speaker = speaker_of(sentence, self._seed)
        said, labelled = self.say(text, speaker, pace_of(sentence, self._seed))
        words = tuple((word.begin, word.end) for word in said.words)
        return Utterance(sentence, text, speaker, words, len(labelled.phones)), labelled

    def say(self, text: str, speaker: int, pace: float = 1.0) -> tuple[Pronunciation, Labelled]:
        """Speak any text by a speaker. Raises UnknownWord, ValueError."""
        said = self._pronounce(text)
        spoken = self._kokoro.speak(said.phones, self._styles[speaker], SPEAKERS[speaker].speed * pace)
        return said, label(spoken, said)


def run(work: Work, plan: Plan, sentences: Sequence[str], hours: float) -> None:
    """Add shards until the set has `hours`, or all sentences are spoken."""
    store = Store(work.speech)
    done = len(list(work.speech.glob("[0-9]*[0-9]")))
    progress = Progress("speech", store.hours, hours, "hours")
    total = store.hours
    if total >= hours or done * plan.shard >= len(sentences):
        return
    teacher, listener = Teacher(plan.seed), Listener() if plan.check_words else None
    while total < hours and done * plan.shard < len(sentences):
        numbers = range(done * plan.shard, min(len(sentences), (done + 1) * plan.shard))
        total += _shard(work.speech / f"{done:05d}", teacher, listener, numbers, sentences)
        done += 1
        progress.show(total, {"sentences": done * plan.shard}, now=True)
        work.log("speech", hours=total, sentences=done * plan.shard)


def _shard(
    folder: Path, teacher: Teacher, listener: Listener | None, numbers: range, sentences: Sequence[str]
) -> float:
    """Speak some sentences into a shard; return its hours. Sentences that cannot be spoken well are left out."""
    kept: list[Utterance] = []
    arrays: dict[str, list[NDArray[Any]]] = defaultdict(list)
    for number in numbers:
        try:
            utterance, labelled = teacher.speak(number, sentences[number])
        except (UnknownWord, ValueError):
            continue
        if listener is not None and not listener.understands(labelled.samples, sentences[number]):
            continue
        kept.append(utterance)
        for name, rows in features(labelled).items():
            arrays[name].append(rows)
    write_shard(folder, kept, arrays)
    return sum(utterance.frames for utterance in kept) / 50 / 3600
