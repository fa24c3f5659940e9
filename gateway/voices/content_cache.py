"""Voices a gateway holds in memory."""

from __future__ import annotations

from collections import OrderedDict

from lighttts.v1 import voice_pb2


class VoiceContentCache:
    """The most recently used voices, within a number of bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._contents: OrderedDict[str, voice_pb2.VoiceContent] = OrderedDict()  # least recently used first
        self._bytes = 0

    def get(self, key: str) -> voice_pb2.VoiceContent | None:
        content = self._contents.get(key)
        if content is not None:
            self._contents.move_to_end(key)
        return content

    def put(self, key: str, content: voice_pb2.VoiceContent) -> None:
        if key not in self._contents:
            self._contents[key] = content
            self._bytes += content.ByteSize()
        while self._bytes > self._max_bytes:
            _, dropped = self._contents.popitem(last=False)
            self._bytes -= dropped.ByteSize()

    def holds(self, voice_hash: str) -> bool:
        """Whether this voice is here, under whatever key."""
        return any(content.voice_hash == voice_hash for content in self._contents.values())

    def forget(self, voice_hash: str) -> None:
        """Drops a voice under every key."""
        for key in [key for key, content in self._contents.items() if content.voice_hash == voice_hash]:
            self._bytes -= self._contents.pop(key).ByteSize()

    def clear(self) -> None:
        self._contents.clear()
        self._bytes = 0
