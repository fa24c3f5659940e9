"""Where training begins: random weights, or those of an existing model directory whose shapes fit."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor

from services.common.checkpoint.weights import read_weights
from training.work import Work

_NOTE = "start_from"


class Exportable(Protocol):
    """A trainer of a network that has official names."""

    def exported(self) -> dict[str, Tensor]: ...
    def load_exported(self, weights: dict[str, Tensor]) -> None: ...


def remember(work: Work, directory: Path | None) -> None:
    """Note the model directory from which stages without a checkpoint start; None for random weights."""
    work.root.mkdir(parents=True, exist_ok=True)
    (work.root / _NOTE).write_text("" if directory is None else str(directory.resolve()), encoding="utf-8")


def directory(work: Work) -> Path | None:
    """Return the noted model directory."""
    note = work.root / _NOTE
    written = note.read_text(encoding="utf-8") if note.is_file() else ""
    return Path(written) if written else None


def continued(work: Work) -> Path | None:
    """Return the noted directory if its tokenizers and speaker encoder are used: none was trained here."""
    return None if work.checkpoint("tokenizer").is_file() else directory(work)


def start_from(work: Work, net: Exportable, part: str, skip: tuple[str, ...] = ()) -> None:
    """Copy the weights of `part`.pt that fit, except names that begin with one of `skip`, if a directory is noted."""
    source = directory(work)
    if source is None:
        return
    weights = read_weights(source / f"{part}.pt")
    own = net.exported()
    fitting = {key: value for key, value in weights.items() if _fits(own, key, value) and not key.startswith(skip)}
    net.load_exported({**own, **fitting})
    sys.stdout.write(f"{part}: {len(fitting)} of {len(own)} tensors from {source}\n")


def _fits(own: Mapping[str, Tensor], key: str, value: Tensor) -> bool:
    return key in own and own[key].shape == value.shape
