"""When a decode worker has lost an utterance, and how its progress is watched."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class LossReason(StrEnum):
    """Why an utterance left a worker, as metrics count it."""

    DIED = "died"
    SILENT = "silent"
    STALLED = "stalled"
    BROKE_PROTOCOL = "broke protocol"
    FULL = "full"
    DRAINING = "draining"


class WorkerLost(Exception):
    """This worker will not finish the utterance; another one may."""

    def __init__(self, reason: LossReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True)
class MovePolicy:
    """When a worker has lost an utterance, and how often that may happen."""

    silence_seconds: float = 3.0
    """Without any message for so long, a worker is taken for frozen."""
    stall_seconds: float = 15.0
    """With heartbeats but no engine step for so long, its engine is taken for hung."""
    max_moves: int = 3
    """Moves one utterance may make before it fails; workers that were full do not count."""


class ProgressWatch:
    """Tells a slow worker from a failed one by its heartbeats: only a step count that stands still means failure."""

    def __init__(self, policy: MovePolicy, may_leave: Callable[[], bool] = lambda: True) -> None:
        """`may_leave` is asked before a worker is given up on suspicion; if not, the utterance waits on."""
        self._policy = policy
        self._may_leave = may_leave
        self._steps = -1
        self._progress_at = time.monotonic()

    @property
    def silence_seconds(self) -> float:
        return self._policy.silence_seconds

    def progress(self) -> None:
        """A message came and was dealt with: the worker is alive whatever its count says."""
        self._progress_at = time.monotonic()

    def beat(self, steps: int, *, owes_nothing: bool) -> None:
        """Raises WorkerLost when the engine owes us work and has not stepped for too long."""
        if steps != self._steps or owes_nothing:
            self._steps = steps
            self._progress_at = time.monotonic()
        elif time.monotonic() - self._progress_at > self._policy.stall_seconds:
            if self._may_leave():
                raise WorkerLost(LossReason.STALLED)
            self._progress_at = time.monotonic()

    def silent(self) -> None:
        """Nothing came for `silence_seconds`. Raises WorkerLost when the worker may be left for that."""
        if self._may_leave():
            raise WorkerLost(LossReason.SILENT)
