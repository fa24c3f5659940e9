"""A stack on random weights, and what it reported while it started."""

from __future__ import annotations

from dataclasses import dataclass

from cli.local.process import WorkerEvent
from cli.local.stack import Stack


@dataclass(frozen=True)
class MiniStack:
    """A stack on the mini CosyVoice2 checkpoint, with the voices mini_a and mini_b, and its events until it served."""

    stack: Stack
    events: tuple[WorkerEvent, ...]
