"""The port of gRPC clients: bounded connections, TLS, and a GOAWAY without a lost call (gateway.process.relay)."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

from gateway.process.connections import BACKLOG, ConnectionLimits, Connections, Gate, connection_limit, listen
from gateway.process.relay import ClientEnd, Relays
from services.common.start_error import StartError
from services.common.tls import TlsError, TlsFiles, server_context

GOAWAY_SECONDS = 10.0
"""Longest wait for a client to read its GOAWAY. Most need one round trip; one that is suspended is not waited for."""
FLUSH_SECONDS = 0.2
"""Longest time, at the end, for clients to read their last answers."""
PATH_BYTES = 100
"""Longest path of a Unix socket; systems permit 103 to 107 bytes."""


def socket_folder() -> tempfile.TemporaryDirectory[str]:
    """Make a folder for the socket on which the gRPC server listens; only this user can enter it. Raises StartError."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="lighttts-")
    except OSError as error:
        raise StartError(
            f"cannot make a folder for a socket: {error}; set TMPDIR to a folder that can be written"
        ) from error
    if len(os.fsencode(socket_path(folder))) > PATH_BYTES:
        place = folder.name
        folder.cleanup()
        raise StartError(f"the path {place} is too long for a Unix socket; set TMPDIR to a shorter one, such as /tmp")
    return folder


def socket_path(folder: tempfile.TemporaryDirectory[str]) -> str:
    return str(Path(folder.name) / "grpc")


class GrpcPort:
    """Listens from `start` to `retire` or `close`."""

    def __init__(self, relays: Relays, host: str, port: int, tls: TlsFiles | None, limits: ConnectionLimits) -> None:
        self.port = port
        """The port it listens on, once it has started."""
        self._relays = relays
        self._host = host
        self._tls = tls
        self._limits = limits
        total = connection_limit(limits.total)
        self._connections = Connections(total, total)
        self._listener: asyncio.Server | None = None

    async def start(self) -> None:
        """Raises StartError if the port is in use or the certificate cannot be used."""
        try:
            context = None if self._tls is None else server_context(self._tls, ("h2",))
        except TlsError as error:
            raise StartError(f"TLS: {error}; see LIGHTTTS_TLS_CERT, _KEY and _CA") from error

        def gate() -> Gate:
            return Gate(lambda: ClientEnd(self._relays), self._connections, context, self._limits.handshake_seconds)

        wanted = f"{self._host}:{self.port}"
        try:
            listener = listen(self._host, self.port)
        except OSError as error:
            raise StartError(f"cannot listen on {wanted}: is another process using it? Set LIGHTTTS_PORT") from error
        self.port = listener.getsockname()[1]
        self._listener = await asyncio.get_running_loop().create_server(gate, sock=listener, backlog=BACKLOG)

    async def retire(self, grace_seconds: float) -> None:
        """Stop to listen, and ask the clients on all connections to open their next calls elsewhere."""
        self._stop_listening()
        await self._relays.retire(min(GOAWAY_SECONDS, grace_seconds))

    async def close(self) -> None:
        """Close all connections; called when the gRPC server has stopped."""
        self._stop_listening()
        await self._relays.close(FLUSH_SECONDS)
        self._connections.abort()

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
