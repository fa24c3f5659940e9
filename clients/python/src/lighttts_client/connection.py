"""Address and credentials of a gateway."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc

from lighttts.v1.tts_pb2 import CreateVoiceHeader, CreateVoiceRequest

OPTIONS: tuple[tuple[str, Any], ...] = (
    # A connection that ends without notice is found while a call runs.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)
PART_BYTES = 64 * 1024


@dataclass(frozen=True)
class Connection:
    """Where a gateway is. Unset fields come from LIGHTTTS_SERVER and LIGHTTTS_API_KEY."""

    server: str = field(default_factory=lambda: os.environ.get("LIGHTTTS_SERVER", "127.0.0.1:50050"))
    """host:port, or https://host:port for TLS."""
    key: str = field(default_factory=lambda: os.environ.get("LIGHTTTS_API_KEY", ""), repr=False)
    """API key; empty for none. It is not printed, because programs log their objects."""
    authority: bytes | None = None
    """With TLS: the PEM certificates of the authorities to trust; None for those that the system trusts."""

    def __post_init__(self) -> None:
        """Raise ValueError for a key that no header can hold."""
        if not (self.key.isascii() and self.key.isprintable()):
            raise ValueError("the API key has a line break or another character that no key has; remove it")

    @property
    def address(self) -> str:
        return self.server.removeprefix("https://").removeprefix("http://").rstrip("/")

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.key}"),) if self.key else ()

    @property
    def credentials(self) -> grpc.ChannelCredentials | None:
        """The credentials of the channel; None for plain text."""
        return grpc.ssl_channel_credentials(self.authority) if self.server.startswith("https://") else None


def voice_messages(header: CreateVoiceHeader, audio: bytes) -> Iterator[CreateVoiceRequest]:
    """Yield the messages that register a voice."""
    yield CreateVoiceRequest(header=header)
    for start in range(0, len(audio), PART_BYTES):
        yield CreateVoiceRequest(audio=audio[start : start + PART_BYTES])
