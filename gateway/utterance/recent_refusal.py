"""The latest refusal of a new session because llm or decode was full. For a moment it holds for the next ones too.

In a flood most sessions are refused. Each refusal would need an encode call, an llm call and a call to every decode
worker, which delays the sessions that speak.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypeAlias

from lighttts.v1 import audio_pb2
from services.common.errors import Overloaded

Priority: TypeAlias = "audio_pb2.Urgency.Priority.ValueType"


class RecentRefusal:
    """Shared by all sessions of a gateway."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`seconds`: how long a refusal holds; 0: not at all."""
        self._seconds, self._clock = seconds, clock
        self._refusals: dict[Priority, tuple[float, Overloaded]] = {}
        """By priority, because offline work is accepted where interactive work is not: when it ends, and the error."""

    def record(self, error: Overloaded, priority: Priority) -> None:
        """Record that the workers refused a new session."""
        self._refusals[priority] = (self._clock() + self._seconds, error)

    def clear(self) -> None:
        """Drop the refusals: an utterance has ended, so there may be room."""
        self._refusals.clear()

    def check(self, priority: Priority) -> None:
        """Raise Overloaded if a refusal holds for a new session of this priority."""
        until, error = self._refusals.get(priority, (-math.inf, Overloaded("")))
        if self._clock() < until:
            raise Overloaded(error.message, retry_after=error.retry_after, stage=error.stage)
