"""Voices in memory: the most recently used, within a count and a number of bytes; one in use is never dropped."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from services.common.voices.voice import Voice


class VoiceCache:
    """A least-recently-used cache of voices by hash. Every call is short, so threads and an event loop may share it."""

    def __init__(self, max_voices: int, max_bytes: int) -> None:
        """`max_voices` and `max_bytes` may be exceeded only while leased voices alone exceed them.

        Raises ValueError when either limit is below 1.
        """
        if max_voices < 1 or max_bytes < 1:
            raise ValueError(f"a voice cache needs room for a voice; got {max_voices} voices, {max_bytes} bytes")
        self._max_voices = max_voices
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._voices: OrderedDict[str, Voice] = OrderedDict()  # least recently used first
        self._leases: Counter[str] = Counter()
        self._unwanted: set[str] = set()
        """Voices to be dropped as soon as nobody leases them."""
        self._nbytes = 0

    def get(self, hash_: str) -> Voice | None:
        """The voice, now the most recently used; None when it is not here."""
        with self._lock:
            return self._touch(hash_)

    def put(self, voice: Voice) -> None:
        """Adds a voice (the one already here under the same hash stays), then drops what no longer fits."""
        with self._lock:
            if self._touch(voice.hash) is None:
                self._voices[voice.hash] = voice
                self._nbytes += voice.nbytes
            self._evict()

    @contextmanager
    def lease(self, hash_: str) -> Iterator[Voice | None]:
        """The voice or None; while the block runs the voice is not dropped."""
        with self._lock:
            voice = self._touch(hash_)
            if voice is not None:
                self._leases[hash_] += 1
        try:
            yield voice
        finally:
            if voice is not None:
                with self._lock:
                    self._leases[hash_] -= 1
                    if not self._leases[hash_]:
                        del self._leases[hash_]
                        if hash_ in self._unwanted:
                            self._drop(hash_)
                    self._evict()

    def forget(self, hash_: str) -> None:
        """Drops a voice: at once, or when the last lease on it ends. Nothing happens when it is not here."""
        with self._lock:
            if hash_ in self._leases:
                self._unwanted.add(hash_)
            else:
                self._drop(hash_)

    def __len__(self) -> int:
        return len(self._voices)

    def __contains__(self, hash_: object) -> bool:
        return hash_ in self._voices

    @property
    def nbytes(self) -> int:
        return self._nbytes

    def _touch(self, hash_: str) -> Voice | None:
        voice = self._voices.get(hash_)
        if voice is not None:
            self._voices.move_to_end(hash_)
        return voice

    def _evict(self) -> None:
        """Drops voices nobody leases, the least recently used first, until the rest fits."""
        for hash_ in [hash_ for hash_ in self._voices if hash_ not in self._leases]:
            if len(self._voices) <= self._max_voices and self._nbytes <= self._max_bytes:
                return
            self._drop(hash_)

    def _drop(self, hash_: str) -> None:
        self._unwanted.discard(hash_)
        voice = self._voices.pop(hash_, None)
        if voice is not None:
            self._nbytes -= voice.nbytes
