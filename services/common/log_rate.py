"""Bounds how often one event is logged, so that clients cannot fill the disk with lines."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from cachetools import LRUCache

BURST = 100
"""Lines of one event that may be written at once."""
LINES_PER_SECOND = 10.0
MAX_EVENTS = 1000
"""Events whose rates are kept; the least recently logged ones are dropped."""
UNLIMITED = frozenset({"gateway.audit", "gateway.usage"})
"""Loggers whose lines must all be written; quotas and the work for a session bound them."""


@dataclass
class _Event:
    tokens: float
    at: float
    dropped: int = 0


class LogRate(logging.Filter):
    """Drops lines of an event, which is a logger's message without its values, beyond its rate.

    The next line that is written has the number of dropped ones in its field `dropped_lines`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._events: LRUCache[tuple[str, int, str], _Event] = LRUCache(MAX_EVENTS)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name in UNLIMITED:
            return True
        fields = record.msg if isinstance(record.msg, dict) else None  # structlog's lines are dictionaries
        message = str(fields.get("event", "")) if fields is not None else str(record.msg)
        key, now = (record.name, record.levelno, message), self._clock()
        event = self._events.get(key)
        if event is None:
            event = self._events[key] = _Event(BURST, now)
        event.tokens = min(BURST, event.tokens + (now - event.at) * LINES_PER_SECOND)
        event.at = now
        if event.tokens < 1:
            event.dropped += 1
            return False
        event.tokens -= 1
        if event.dropped:
            if fields is not None:
                record.msg = fields | {"dropped_lines": event.dropped}
            else:
                record.dropped_lines = event.dropped
            event.dropped = 0
        return True
