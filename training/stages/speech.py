"""Stage speech: the teacher speaks the sentences, in shards, until there are enough hours."""

from __future__ import annotations

import multiprocessing
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from training.features import features
from training.plan import Plan
from training.stages import phones
from training.store import Store, Utterance, write_shard
from training.teacher.check import Listener
from training.teacher.kokoro import Kokoro
from training.teacher.labels import Labelled, label
from training.teacher.pronounce import Pronunciation
from training.teacher.speakers import SPEAKERS, pace_of, speaker_of
from training.work import Progress, Work

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Speaks(Protocol):
    """What speaks: the teacher, or a stand-in of a test."""

    def speak(self, sentence: int, text: str, said: Pronunciation) -> tuple[Utterance, Labelled]:
        """Speak a sentence by its speaker. Raises ValueError."""


class Teacher:
    """Speaks sentences of the set."""

    def __init__(self, seed: int, device: str = "cpu") -> None:
        self._kokoro, self._seed = Kokoro(device), seed
        self._styles = [self._kokoro.style(speaker.blend) for speaker in SPEAKERS]

    def speak(self, sentence: int, text: str, said: Pronunciation) -> tuple[Utterance, Labelled]:
        """Speak a sentence by its speaker. Raises ValueError."""
        speaker = speaker_of(sentence, self._seed)
        labelled = self.say(said, speaker, pace_of(sentence, self._seed))
        words = tuple((word.begin, word.end) for word in said.words)
        return Utterance(sentence, text, speaker, words, len(labelled.phones)), labelled

    def say(self, said: Pronunciation, speaker: int, pace: float = 1.0) -> Labelled:
        """Speak phones by a speaker. Raises ValueError."""
        return label(self._kokoro.speak(said.phones, self._styles[speaker], SPEAKERS[speaker].speed * pace), said)


@dataclass(frozen=True)
class _Shard:
    """The sentences of a shard, with their numbers and pronunciations; those without one are left out."""

    folder: Path
    sentences: tuple[tuple[int, str, Pronunciation], ...]


def run(
    work: Work,
    plan: Plan,
    sentences: Sequence[str],
    hours: float,
    device: str = "cpu",
    teacher: Callable[[int, str], Speaks] = Teacher,
) -> None:
    """Add shards until the set has `hours`, or all sentences are spoken.

    With a GPU, `plan.workers` processes take the shards in their order. Shard k has the same sentences always.
    """
    store = Store(work.speech)
    missing = _missing(work, plan, len(sentences))
    progress, total = Progress("speech", store.hours, hours, "hours"), store.hours
    pronounced = phones.read(work)
    if len(pronounced) != len(sentences):
        raise ValueError(f"{work.phones} has {len(pronounced)} sentences, expected {len(sentences)}: delete the file")

    def shards() -> Iterator[_Shard]:
        """Shards that do not exist, while there are not enough hours; gaps of a stopped run come first."""
        for number in missing:
            if total >= hours and number > newest:
                return
            chosen = range(number * plan.shard, min(len(sentences), (number + 1) * plan.shard))
            said = ((sentence, sentences[sentence], pronounced[sentence]) for sentence in chosen)
            known = tuple((sentence, text, phone) for sentence, text, phone in said if phone is not None)
            yield _Shard(work.speech / f"{number:05d}", known)

    newest = max((int(folder.name) for folder in _complete(work)), default=-1)
    speak = _Speaking(plan.seed, device, plan.check_words, teacher)
    workers = max(1, plan.workers)
    for made in _in_processes(speak, shards(), workers) if workers > 1 or device != "cpu" else map(speak, shards()):
        total += made
        count = len(_complete(work)) * plan.shard
        progress.show(total, {"sentences": count}, now=workers == 1)
        work.log("speech", hours=total, sentences=count)


def _complete(work: Work) -> list[Path]:
    return list(work.speech.glob("[0-9]*[0-9]"))


def _missing(work: Work, plan: Plan, sentences: int) -> list[int]:
    """The numbers of the shards that do not exist."""
    done = {int(folder.name) for folder in _complete(work)}
    return [number for number in range(-(-sentences // plan.shard)) if number not in done]


@dataclass(frozen=True)
class _Speaking:
    """Speaks shards in any process; a process keeps its teacher."""

    seed: int
    device: str
    check_words: bool
    teacher: Callable[[int, str], Speaks]

    def __call__(self, shard: _Shard) -> float:
        """Write a shard and return its hours. Sentences that cannot be spoken well are left out."""
        teacher, listener = _teacher(self)
        kept: list[Utterance] = []
        arrays: dict[str, list[NDArray[Any]]] = defaultdict(list)
        for number, text, said in shard.sentences:
            try:
                utterance, labelled = teacher.speak(number, text, said)
            except ValueError:
                continue
            if listener is not None and not listener.understands(labelled.samples, text):
                continue
            kept.append(utterance)
            for name, rows in features(labelled).items():
                arrays[name].append(rows)
        write_shard(shard.folder, kept, arrays)
        return sum(utterance.frames for utterance in kept) / 50 / 3600


@cache
def _teacher(speaking: _Speaking) -> tuple[Speaks, Listener | None]:
    return speaking.teacher(speaking.seed, speaking.device), Listener() if speaking.check_words else None


def _in_processes(speak: _Speaking, shards: Iterator[_Shard], workers: int) -> Iterator[float]:
    """The hours of the shards as they are ready. Raises the error of a process; the others end their shards first."""
    context = multiprocessing.get_context("spawn")
    with _one_thread_each(), ProcessPoolExecutor(workers, context) as pool:
        running: set[Future[float]] = set()
        try:
            while True:
                for shard in shards:
                    running.add(pool.submit(speak, shard))
                    if len(running) >= workers:
                        break
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for one in done:
                    yield one.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let processes that start now use one thread each in numerical libraries."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
