"""A folder of golden vectors: a checkpoint in official format, arrays next to it, tolerances in its README.

Nothing about sizes is known here. Whatever a check reads it asks this class for, which says plainly what is absent.
"""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from services.common.checkpoint.model_dir import ModelDir, open_model_dir
from services.common.checkpoint.weights import read_weights
from services.common.families import FAMILIES
from services.decode.flow.model import Flow
from services.decode.vocoder.build import build_vocoder
from services.decode.vocoder.stream import Vocoder
from services.llm.model.model import SpeechLM, load_speech_lm


class Absent(Exception):
    """The folder lacks a file or an array."""


class Arrays(Mapping[str, np.ndarray]):
    """The arrays of one file; remembers which were read. Asking for one that is not there raises Absent."""

    def __init__(self, path: Path) -> None:
        """Raises Absent when there is no such file, ValueError when it is damaged."""
        if not path.is_file():
            raise Absent(f"{path.name} is not in this folder")
        try:
            with np.load(path, allow_pickle=False) as file:
                self._arrays = {name: file[name] for name in file.files}
        except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path.name} is damaged ({error})") from error
        self.name = path.name
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            raise Absent(f"{self.name} has no array {name}")
        self.read.add(name)
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def matching(self, pattern: str) -> list[re.Match[str]]:
        """The names that match `pattern` wholly, in the file's order."""
        return [match for name in self._arrays if (match := re.fullmatch(pattern, name))]


# What the goldens' READMEs allow, by stage; the README of the folder itself has the last word.
_TOLERANCES: dict[str, dict[str, float]] = {
    "cosyvoice2": {
        "logits": 1e-4,
        "mel": 5e-5,
        "streamed mel": 5e-5,
        "f0": 5e-3,
        "source": 2e-3,
        "waveform": 1e-5,
        "audio": 1e-2,
        "audio rms": 1e-3,
        "features": 1e-4,
        "fbank": 2e-3,
        "resampler": 1e-5,
    },
}
_TOLERANCES["cosyvoice3"] = _TOLERANCES["cosyvoice2"] | {"f0": 1e-3, "source": 1e-3, "audio": 5e-3}
_STAGES = {
    "LLM logits": "logits",
    "encoder h/mu": "mel",
    "cached streaming mel": "streamed mel",
    "f0": "f0",
    "source from f0": "source",
    "waveform given source": "waveform",
    "end-to-end audio": "audio",
    "mel 80": "features",
    "fbank": "fbank",
    "resampler": "resampler",
}
_NUMBER = r"\d+(?:\.\d+)?e-?\d+"


def read_tolerances(readme: str, defaults: Mapping[str, float]) -> dict[str, float]:
    """The README's table of tolerances (stage | noise floor | use) over `defaults`."""
    tolerances = dict(defaults)
    for line in readme.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        stage = next((key for start, key in _STAGES.items() if cells[0].startswith(start)), None)
        numbers = re.findall(_NUMBER, cells[2]) if len(cells) == 3 else []
        if stage is None or not numbers:
            continue
        tolerances[stage] = float(numbers[0])
        if stage == "audio" and len(numbers) > 1:
            tolerances["audio rms"] = float(numbers[1])
    return tolerances


class Golden:
    """An open folder. Use as a context manager: it keeps a temporary directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: dict[str, Arrays] = {}
        self._temporary = tempfile.TemporaryDirectory(prefix="parity-")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._temporary.cleanup()

    @property
    def files(self) -> Mapping[str, Arrays]:
        """The files of arrays read so far."""
        return self._files

    def arrays(self, name: str) -> Arrays:
        if name not in self._files:
            self._files[name] = Arrays(self.path / name)
        return self._files[name]

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def require(self, *names: str) -> None:
        """Raises Absent naming the first file that the folder lacks."""
        for name in names:
            if not self.has(name):
                raise Absent(f"{name} is not in this folder")

    @cached_property
    def model(self) -> ModelDir:
        """The model directory. Files it lacks are stood in for by empty ones: checks `require` what they read."""
        root = Path(self._temporary.name) / self.path.name
        root.mkdir()
        for file in self.path.iterdir():
            (root / file.name).symlink_to(file.resolve())
        for name in {name for family in FAMILIES for name in family.required if "/" not in name}:
            (root / name).touch()
        return open_model_dir(root)

    @cached_property
    def tolerance(self) -> Mapping[str, float]:
        """Largest error by stage."""
        return read_tolerances(self._readme, _TOLERANCES[self.model.family.name])

    @cached_property
    def informative(self) -> frozenset[str]:
        """The names in the README's lines with the word `informative`."""
        lines = [line for line in self._readme.splitlines() if re.search(r"\binformative\b", line)]
        return frozenset(name for line in lines for name in re.findall(r"\w+", line))

    @cached_property
    def _readme(self) -> str:
        path = self.path / "README.md"
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    @cached_property
    def speech_lm(self) -> SpeechLM:
        self.require("llm.pt")
        return load_speech_lm(self.model)

    @cached_property
    def flow(self) -> Flow:
        self.require("flow.pt")
        return Flow(self.model.flow, read_weights(self.model.weights_file("flow")))

    @cached_property
    def vocoder(self) -> Vocoder:
        self.require("hift.pt")
        return build_vocoder(self.model)


def ids(array: Any) -> tuple[int, ...]:
    """An array of ids as plain integers."""
    return tuple(int(value) for value in np.asarray(array).ravel())
