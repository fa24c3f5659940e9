"""Channels to workers, with or without mutual TLS."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol, runtime_checkable

import grpc
import grpc.aio
import structlog

from services.common.rpc import channel_options
from services.common.settings import ServiceSettings
from services.common.tls import TlsError, TlsFiles

log = structlog.get_logger(__name__)

_RECONNECT_MIN_MS = 100
_RECONNECT_MAX_MS = 1000
_CONNECT_TIMEOUT_MS = 2000


def open_channel(
    address: str,
    *,
    max_message_bytes: int = 16 * 2**20,
    credentials: grpc.ChannelCredentials | None = None,
    server_name: str | None = None,
) -> grpc.aio.Channel:
    """Open a channel with its own connection to one worker; it connects at its first call.

    `credentials` enable TLS. Workers are dialled by IP address, so `server_name` is the name in their certificate. A
    lost connection is tried again after 0.1 s, then less often, at least about once a second.
    """
    options: list[tuple[str, int | str]] = [
        *channel_options(max_message_bytes),
        # Channels to one address would share a connection, and its flow control, through the global pool.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", _RECONNECT_MIN_MS),
        ("grpc.max_reconnect_backoff_ms", _RECONNECT_MAX_MS),
        # Despite its name this is the timeout of a connection attempt; the default of 20 s is too long for an address
        # that does not answer.
        ("grpc.min_reconnect_backoff_ms", _CONNECT_TIMEOUT_MS),
        # Workers are reached directly, even if the environment names a proxy for outgoing traffic.
        ("grpc.enable_http_proxy", 0),
    ]
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=options)
    if server_name is not None:
        options.append(("grpc.ssl_target_name_override", server_name))
    return grpc.aio.secure_channel(address, credentials, options=options)


@runtime_checkable
class Renewing(Protocol):
    """A dialler whose credentials may be renewed while channels are open."""

    def __call__(self, address: str) -> grpc.aio.Channel:
        """Open a channel with the current credentials."""

    def generation(self) -> int:
        """Return the number of the current credentials; channels opened with a lower one must be dialled again."""


def dialler(settings: ServiceSettings) -> Callable[[str], grpc.aio.Channel]:
    """Return the function that opens channels to workers, with the message limit and TLS files of `settings`.

    With mutual TLS it is a `Renewing`. Raises TlsError when the files cannot be read.
    """
    if settings.tls is None:
        return partial(open_channel, max_message_bytes=settings.max_message_bytes)
    return _TlsDialler(settings, settings.tls)


class _TlsDialler:
    """Open channels with mutual TLS. While the files cannot be used, the content read before stays in use."""

    def __init__(self, settings: ServiceSettings, files: TlsFiles) -> None:
        self._settings = settings
        self._files = files
        self._content = files.read()
        self._generation = 0

    def __call__(self, address: str) -> grpc.aio.Channel:
        self.generation()
        certificate, key, authority = self._content
        return open_channel(
            address,
            max_message_bytes=self._settings.max_message_bytes,
            credentials=grpc.ssl_channel_credentials(authority, key, certificate),
            server_name=self._settings.tls_server_name,
        )

    def generation(self) -> int:
        try:
            found = self._files.read()
            if found != self._content:
                self._files.check()
                self._content = found
                self._generation += 1
        except TlsError as error:
            log.warning("keeping the previous certificate", reason=str(error))
        return self._generation
