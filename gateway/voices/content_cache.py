"""Contents of voices that a gateway keeps in memory."""

from __future__ import annotations

import contextlib

from cachetools import Cache, LRUCache

from lighttts.v1 import voice_pb2


class VoiceContentCache:
    """The most recently used voices, within a number of bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._contents: LRUCache[str, voice_pb2.VoiceContent] = LRUCache(
            max_bytes, getsizeof=lambda content: content.ByteSize()
        )

    def get(self, key: str) -> voice_pb2.VoiceContent | None:
        return self._contents.get(key)

    def put(self, key: str, content: voice_pb2.VoiceContent) -> None:
        """Add a voice, unless it is larger than the whole cache."""
        with contextlib.suppress(ValueError):
            self._contents[key] = content

    def holds(self, voice_hash: str) -> bool:
        """Return whether a voice is cached under any key."""
        return bool(self._keys(voice_hash))

    def evict(self, voice_hash: str) -> None:
        """Evict a voice under every key."""
        for key in self._keys(voice_hash):
            del self._contents[key]

    def clear(self) -> None:
        self._contents.clear()

    def _keys(self, voice_hash: str) -> list[str]:
        # `Cache.__getitem__`: a look at all voices is no use of them, so it must not change their order.
        return [key for key in self._contents if Cache.__getitem__(self._contents, key).voice_hash == voice_hash]
