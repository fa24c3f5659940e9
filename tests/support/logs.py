"""Log lines of a block as dictionaries, from structlog and from the standard library's logging alike."""

from __future__ import annotations

import logging
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import structlog.testing

_STANDARD = vars(logging.makeLogRecord({})).keys() | {"message", "asctime"}


class _Collector(logging.Handler):
    def __init__(self, lines: list[MutableMapping[str, Any]]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        extra = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        self._lines.append({"event": record.getMessage(), "log_level": record.levelname.lower(), **extra})


@contextmanager
def capture_logs() -> Iterator[list[MutableMapping[str, Any]]]:
    """The lines that light-tts logs in the block, each with its event, its log_level and its fields."""
    with structlog.testing.capture_logs() as lines:
        ours, collector = logging.getLogger("services"), _Collector(lines)
        level = ours.level
        ours.addHandler(collector)
        ours.setLevel(logging.DEBUG)
        try:
            yield lines
        finally:
            ours.removeHandler(collector)
            ours.setLevel(level)
