"""The stage phones keeps pronunciations; the stage speech makes the same shards with any number of processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support.fake_teacher import BrokenTeacher, FakeTeacher
from training import features
from training.plan import Plan
from training.stages import phones, speech
from training.store import Store
from training.teacher.pronounce import Pronunciation, SpokenWord, UnknownWord
from training.work import Work

TEXTS = [f"Sentence {number}." for number in range(11)]


def pronounced(text: str) -> Pronunciation:
    if text.endswith(" 3."):
        raise UnknownWord("3")
    return Pronunciation("sˈO.", (SpokenWord(0, 8, "sˈO"),), ((0, 3),))


def test_pronunciations_are_kept(tmp_path: Path) -> None:
    work = Work(tmp_path)
    with pytest.raises(FileNotFoundError, match="run the stage phones first"):
        phones.read(work)
    assert phones.run(work, TEXTS, lambda: pronounced) == 10
    assert phones.read(work) == [None if number == 3 else pronounced("") for number in range(11)]

    def never() -> Callable[[str], Pronunciation]:
        raise AssertionError("the file exists")

    assert phones.run(work, TEXTS, never) == 10


@pytest.fixture(autouse=True)
def no_pitch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake teacher replaces the pitch in the stage's processes; this does so here, and takes it back."""
    monkeypatch.setattr(features, "pitch", lambda low, frames: np.zeros(frames, dtype=np.float32))


def spoken(work: Work, hours: float, teacher: type[FakeTeacher] = FakeTeacher, workers: int = 0) -> list[list[int]]:
    """The sentences of each shard after the stage ran."""
    phones.run(work, TEXTS, lambda: pronounced)
    speech.run(work, Plan(shard=3, workers=workers), TEXTS, hours, teacher=teacher)
    shards = sorted(work.speech.iterdir())
    assert [shard.name for shard in shards] == [f"{number:05d}" for number in range(len(shards))]
    return [[one["sentence"] for one in json.loads((shard / "utterances.json").read_text())] for shard in shards]


def test_shards_have_their_sentences_without_those_that_fail(tmp_path: Path) -> None:
    assert spoken(Work(tmp_path), 1.0) == [[0, 1, 2], [4, 5], [6, 8], [9, 10]]


def test_the_stage_stops_at_its_hours_and_goes_on_where_a_shard_is_missing(tmp_path: Path) -> None:
    work = Work(tmp_path)
    first = 18 / 50 / 3600
    assert spoken(work, first) == [[0, 1, 2]]
    spoken(work, 2 * first)
    for path in (work.speech / "00000").iterdir():
        path.unlink()
    (work.speech / "00000").rmdir()
    assert spoken(work, 1e-6)[0] == [0, 1, 2]
    assert Store(work.speech).hours >= first


def test_more_processes_make_the_same_shards(tmp_path: Path) -> None:
    alone, together = Work(tmp_path / "alone"), Work(tmp_path / "together")
    assert spoken(alone, 1.0) == spoken(together, 1.0, workers=2)
    for path in sorted(alone.speech.rglob("*.npy")):
        np.testing.assert_array_equal(np.load(path), np.load(together.speech / path.relative_to(alone.speech)))


def test_an_error_of_a_process_ends_the_stage_with_its_message(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the teacher's package is missing"):
        spoken(Work(tmp_path), 1.0, BrokenTeacher, workers=2)
