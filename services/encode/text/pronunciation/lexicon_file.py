"""The lexicon of a deployment: a file, which is read again when it changes."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.common.start_error import StartError
from services.encode.text.pronunciation.lexicon import NO_LEXICON, Entry, Lexicon
from services.encode.text.pronunciation.phones import Pronouncer

_LOG = logging.getLogger(__name__)

MAX_ENTRIES = 10_000
MAX_BYTES = 4 * 2**20
CHECK_SECONDS = 5.0
"""Least time between two looks at the file."""


class LexiconFile:
    """A JSON file: `{"phrase": "respelling", ...}`, or `{"phrase": {"ipa": "..."}}` with ipa, arpabet or pinyin.

    Thread-safe. A damaged file at start is an error; later the last good content stays, and the log says why.
    """

    def __init__(self, path: Path | None, pronouncer: Pronouncer, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises StartError if the file cannot be used."""
        self._path = path
        self._pronouncer = pronouncer
        self._clock = clock
        self._lock = threading.Lock()
        self._lexicon = NO_LEXICON
        self._digest = ""
        self._version: tuple[int, int] | None = None
        self._looked_at = clock()
        if path is not None:
            try:
                self._read(path)
            except (OSError, ValueError) as error:
                raise StartError(f"the lexicon {path} cannot be used: {error}") from error

    @property
    def current(self) -> Lexicon:
        """The content of the file at the last look at it."""
        return self._lexicon

    @property
    def due(self) -> bool:
        """Whether it is time to look at the file again."""
        return self._path is not None and self._clock() - self._looked_at >= CHECK_SECONDS

    def refresh(self) -> None:
        """Read the file again if it has changed since; call it where blocking is allowed."""
        path = self._path
        with self._lock:
            if path is None or not self.due:
                return
            self._looked_at = self._clock()
            try:
                self._read(path)
            except (OSError, ValueError) as error:
                _LOG.warning("the lexicon %s cannot be read again, the last content stays: %s", path, error)

    @property
    def version(self) -> str:
        """Hash (hex) of the content; empty without a file."""
        return self._digest

    def _read(self, path: Path) -> None:
        status = path.stat()
        version = (status.st_mtime_ns, status.st_size)
        if version == self._version:
            return
        self._version = version
        if status.st_size > MAX_BYTES:
            raise ValueError(f"it has {status.st_size} bytes; at most {MAX_BYTES} are allowed")
        content = path.read_bytes()
        self._lexicon = Lexicon(_entries(json.loads(content), self._pronouncer))
        self._digest = hashlib.sha256(content).hexdigest()[:16]
        _LOG.info("read the lexicon %s: %d entries", path, len(self._lexicon))


def _entries(content: Any, pronouncer: Pronouncer) -> list[Entry]:
    if not isinstance(content, dict) or len(content) > MAX_ENTRIES:
        raise ValueError(f"it must be a JSON object of at most {MAX_ENTRIES} phrases")
    entries = []
    for phrase, value in content.items():
        entry = _entry(phrase, value)
        problem = entry.problem(pronouncer)
        if problem is not None:
            raise ValueError(f"phrase {phrase!r}: {problem[1]}")
        entries.append(entry)
    return entries


def _entry(phrase: str, value: Any) -> Entry:
    if isinstance(value, str):
        return Entry(phrase, value)
    if isinstance(value, dict) and len(value) == 1:
        (alphabet, pronunciation), *_ = value.items()
        if alphabet in ("ipa", "arpabet", "pinyin") and isinstance(pronunciation, str):
            return Entry(phrase, pronunciation, alphabet)
    raise ValueError(
        f'phrase {phrase!r} needs a text, or an object such as {{"ipa": "..."}} with ipa, arpabet or pinyin'
    )
