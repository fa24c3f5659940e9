"""The working folder of one run, and the lines that show its progress."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT = Path(".run/voice")


@dataclass(frozen=True)
class Work:
    """Places of all intermediate results. Everything in the folder can be deleted; stages then run again."""

    root: Path

    @property
    def sentences(self) -> Path:
        return self.root / "sentences.json"

    @property
    def phones(self) -> Path:
        return self.root / "phones.json"

    @property
    def speech(self) -> Path:
        return self.root / "speech"

    @property
    def codes(self) -> Path:
        return self.root / "codes"

    @property
    def export(self) -> Path:
        return self.root / "export"

    @property
    def report(self) -> Path:
        return self.root / "report"

    def checkpoint(self, name: str) -> Path:
        return self.root / f"{name}.pt"

    def log(self, stage: str, **figures: Any) -> None:
        """Append figures of a stage to `log.jsonl`, which the report plots."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": stage, "time": round(time.time()), **figures}) + "\n")

    def logged(self, stage: str) -> list[dict[str, Any]]:
        """Return the logged figures of a stage, in order."""
        path = self.root / "log.jsonl"
        if not path.is_file():
            return []
        lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        return [line for line in lines if line["stage"] == stage]


def write_json(path: Path, value: Any) -> None:
    """Write a file that is complete whenever it exists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    os.replace(part, path)


class Progress:
    """Prints a line now and then: what is done, the newest figures, the time that the rest needs."""

    def __init__(self, stage: str, done: float, total: float, unit: str, *, every: float = 20.0) -> None:
        self._stage, self._first, self._total, self._unit, self._every = stage, done, total, unit, every
        self._begin = self._printed = time.monotonic()

    def show(self, done: float, figures: Mapping[str, float] | None = None, *, now: bool = False) -> None:
        """Print if `every` seconds passed since the last line, or with `now`."""
        clock = time.monotonic()
        if not now and clock - self._printed < self._every:
            return
        self._printed = clock
        rest = (self._total - done) * (clock - self._begin) / max(1e-9, done - self._first)
        shown = "".join(f"  {name} {value:.3g}" for name, value in (figures or {}).items())
        left = f"  {rest / 60:.0f} min left" if done < self._total and done > self._first else ""
        sys.stdout.write(f"{self._stage}: {done:.4g} of {self._total:.4g} {self._unit}{shown}{left}\n")
        sys.stdout.flush()
