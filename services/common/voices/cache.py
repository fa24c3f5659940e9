"""Voices in memory: the most recently used, within a count and a number of bytes. A leased voice is never evicted."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cachetools import LRUCache

from services.common.voices.voice import Voice


@dataclass
class _Leased:
    voice: Voice
    leases: int = 0
    evict: bool = False
    """Evict the voice when its last lease ends."""


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
        self._lock = threading.RLock()
        self._leased: dict[str, _Leased] = {}
        self._held: dict[str, Voice] = {}
        """Voices that stay whatever is evicted; they count towards no limit."""
        # Unbounded: the limits are over idle and leased voices together, see `_shrink`.
        self._idle: LRUCache[str, Voice] = LRUCache(math.inf, getsizeof=lambda voice: voice.nbytes)

    def hold(self, voices: Iterable[Voice]) -> None:
        """Keep these voices for good, in addition to the limits; no eviction concerns them."""
        with self._lock:
            self._held = {voice.hash: voice for voice in voices}
            for hash_ in self._held:
                self._idle.pop(hash_, None)

    def get(self, hash_: str) -> Voice | None:
        """Return the voice and make it the most recently used; None when it is not cached."""
        with self._lock:
            if hash_ in self._held:
                return self._held[hash_]
            leased = self._leased.get(hash_)
            return leased.voice if leased is not None else self._idle.get(hash_)

    def put(self, voice: Voice) -> None:
        """Add a voice, then evict what exceeds the limits. A cached voice of the same hash stays."""
        with self._lock:
            if voice.hash not in self._leased and voice.hash not in self._held:
                self._idle.setdefault(voice.hash, voice)
            self._shrink()

    @contextmanager
    def lease(self, hash_: str) -> Iterator[Voice | None]:
        """Yield the voice, or None. The voice is not evicted while the block runs."""
        held = self._held.get(hash_)
        if held is not None:
            yield held
            return
        leased = self._begin_lease(hash_)
        try:
            yield leased.voice if leased is not None else None
        finally:
            if leased is not None:
                self._end_lease(leased)

    def evict(self, hash_: str) -> None:
        """Evict a voice, if it is cached: at once, or when its last lease ends."""
        with self._lock:
            if hash_ in self._leased:
                self._leased[hash_].evict = True
            else:
                self._idle.pop(hash_, None)

    def __len__(self) -> int:
        with self._lock:
            return len(self._idle) + len(self._leased)

    def __contains__(self, hash_: object) -> bool:
        with self._lock:
            return hash_ in self._held or hash_ in self._idle or hash_ in self._leased

    @property
    def nbytes(self) -> int:
        """Bytes of all cached voices, without those that it holds."""
        with self._lock:
            return int(self._idle.currsize) + sum(leased.voice.nbytes for leased in self._leased.values())

    def _begin_lease(self, hash_: str) -> _Leased | None:
        with self._lock:
            if (voice := self._idle.pop(hash_, None)) is not None:
                self._leased[hash_] = _Leased(voice)
            if (leased := self._leased.get(hash_)) is not None:
                leased.leases += 1
            return leased

    def _end_lease(self, leased: _Leased) -> None:
        with self._lock:
            leased.leases -= 1
            if not leased.leases:
                del self._leased[leased.voice.hash]
                if not leased.evict and leased.voice.hash not in self._held:
                    self._idle[leased.voice.hash] = leased.voice
                self._shrink()

    def _shrink(self) -> None:
        """Evict idle voices, the least recently used first, until the limits hold."""
        while self._idle and (len(self) > self._max_voices or self.nbytes > self._max_bytes):
            self._idle.popitem()
