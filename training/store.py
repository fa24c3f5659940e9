"""The training set on disk: shards of utterances, each a folder of plain numpy arrays.

A shard is written under another name and renamed, so a folder with the final name is complete. Training needs numpy
alone to read it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RATES: Mapping[str, int] = {"wav": 480, "mel": 1, "whisper": 2, "kaldi": 2, "pitch": 1, "phones": 1, "words": 1}
"""Rows of each array per frame of 20 ms."""
_OPEN_FILES = 600
"""Below the usual limit of a process, 1024."""


@dataclass(frozen=True)
class Utterance:
    """One spoken sentence.

    sentence  its number in the list of sentences; speaker its number in SPEAKERS
    words     per word, where it begins and ends in the text
    frames    its length, in frames of 20 ms; an even number
    """

    sentence: int
    text: str
    speaker: int
    words: tuple[tuple[int, int], ...]
    frames: int


@dataclass(frozen=True)
class Place:
    """Where an utterance is: its shard, and its first frame there."""

    utterance: Utterance
    shard: Path
    offset: int


def write_shard(folder: Path, utterances: Sequence[Utterance], arrays: Mapping[str, Sequence[NDArray[Any]]]) -> None:
    """Write a shard; `arrays[name][i]` has `RATES[name]` rows per frame of utterance i."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name, rate in RATES.items():
        for utterance, rows in zip(utterances, arrays[name], strict=True):
            if len(rows) != rate * utterance.frames:
                raise ValueError(f"{name} has {len(rows)} rows, expected {rate * utterance.frames}")
        joined = np.concatenate(list(arrays[name])) if utterances else np.zeros(0)
        np.save(part / f"{name}.npy", joined)
    (part / "utterances.json").write_text(json.dumps([asdict(one) for one in utterances]), encoding="utf-8")
    os.replace(part, folder)


class Store:
    """All complete shards of a folder, in the order of their names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places: list[Place] = []
        for shard in sorted(path for path in folder.glob("[0-9]*") if path.suffix != ".part"):
            offset = 0
            for entry in json.loads((shard / "utterances.json").read_text(encoding="utf-8")):
                words = tuple((int(begin), int(end)) for begin, end in entry.pop("words"))
                utterance = Utterance(**entry, words=words)
                self.places.append(Place(utterance, shard, offset))
                offset += utterance.frames

    def __len__(self) -> int:
        return len(self.places)

    @property
    def hours(self) -> float:
        return sum(place.utterance.frames for place in self.places) / 50 / 3600

    def read(self, index: int, name: str, first: int = 0, last: int | None = None) -> NDArray[Any]:
        """Return frames [first, last) of an array of utterance `index`, as a copy."""
        place, rate = self.places[index], RATES[name]
        last = place.utterance.frames if last is None else last
        rows = _opened(place.shard / f"{name}.npy")[(place.offset + first) * rate : (place.offset + last) * rate]
        return np.array(rows)


@lru_cache(maxsize=_OPEN_FILES)
def _opened(path: Path) -> NDArray[Any]:
    array: NDArray[Any] = np.load(path, mmap_mode="r")
    return array
