"""How a worker is dialled."""

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

_RECONNECT_LEAST_MS = 100
_RECONNECT_MOST_MS = 1000
_CONNECT_TIMEOUT_MS = 2000


def open_channel(
    address: str,
    *,
    max_message_bytes: int = 16 * 2**20,
    credentials: grpc.ChannelCredentials | None = None,
    server_name: str | None = None,
) -> grpc.aio.Channel:
    """A channel with a connection of its own to one worker; it connects at its first call.

    `credentials` make it TLS. Workers are dialled by IP address, so `server_name` says which name their certificate
    bears. A lost connection is tried again after 0.1 s, then less often, at least about once a second.
    """
    options: list[tuple[str, int | str]] = [
        *channel_options(max_message_bytes),
        # Channels to one address would share a connection, and its flow control, through the global pool.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", _RECONNECT_LEAST_MS),
        ("grpc.max_reconnect_backoff_ms", _RECONNECT_MOST_MS),
        # gRPC's name for the time a connection attempt gets: 20 s by default, too long behind a silent address.
        ("grpc.min_reconnect_backoff_ms", _CONNECT_TIMEOUT_MS),
        # Workers are reached directly, whatever proxy the environment names for the way out.
        ("grpc.enable_http_proxy", 0),
    ]
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=options)
    if server_name is not None:
        options.append(("grpc.ssl_target_name_override", server_name))
    return grpc.aio.secure_channel(address, credentials, options=options)


@runtime_checkable
class Renewing(Protocol):
    """Opens channels with credentials that may be renewed while channels are open."""

    def __call__(self, address: str) -> grpc.aio.Channel:
        """A channel with the credentials of now."""

    def generation(self) -> int:
        """Grows whenever the credentials have changed: channels of an earlier one are to be dialled anew."""


def dialler(settings: ServiceSettings) -> Callable[[str], grpc.aio.Channel]:
    """Opens channels to workers as `settings` say: message limit, and mutual TLS, which is then Renewing.

    Raises TlsError when the files cannot be read.
    """
    if settings.tls is None:
        return partial(open_channel, max_message_bytes=settings.max_message_bytes)
    return _TlsDialler(settings, settings.tls)


class _TlsDialler:
    """While the files cannot be used, those read before stay in use."""

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
            log.warning("dialling with the certificate of before", reason=str(error))
        return self._generation
