"""One port for HTTP and gRPC, so that both kinds of CosyVoice client connect unmodified.

CosyVoice's HTTP server and its gRPC server are separate programs, and both default to port 50000. One port that serves
both lets a client of either kind connect to its default address.

Every HTTP/2 connection starts with the same bytes (RFC 9113, section 3.4), and no HTTP/1 request starts with them.
uvicorn supports HTTP/1 only, so HTTP/2 connections are forwarded to the gRPC server's own listener.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def http_or_grpc(grpc_port: Callable[[], int]) -> type[H11Protocol]:
    """Return a uvicorn protocol class that forwards gRPC connections to port `grpc_port()` of the loopback address."""

    class HttpOrGrpc(H11Protocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._head: bytes | None = b""
            """Bytes received while the connection may still be either; None once it is HTTP/1."""

        def data_received(self, data: bytes) -> None:
            if self._head is None:
                super().data_received(data)
                return
            head = self._head + data
            if not head.startswith(PREFACE) and PREFACE.startswith(head):
                self._head = head
            elif head.startswith(PREFACE):
                self.connections.discard(self)
                _pipe(self.transport, head, grpc_port())
            else:
                self._head = None
                super().data_received(head)

    return HttpOrGrpc


def _pipe(client: asyncio.Transport, head: bytes, port: int) -> None:
    """Forward a connection, from which `head` has been read, to `port`. Close it if `port` refuses."""
    near, far = _End(), _End()
    near.other, far.other = far, near
    near.transport = client
    client.pause_reading()
    client.set_protocol(near)

    async def connect() -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: far, "127.0.0.1", port)
        except OSError:
            client.close()
            return
        far.write(head)
        client.resume_reading()

    near.connecting = asyncio.get_running_loop().create_task(connect())


class _End(asyncio.Protocol):
    """One end of a pipe: the other end writes what this one reads, and pauses it when its buffer is full."""

    other: _End
    transport: asyncio.Transport | None = None
    connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self.transport = transport

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        self.other.write(data)

    def pause_writing(self) -> None:
        if self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        if self.connecting is not None:
            self.connecting.cancel()
        if self.other.transport is not None:
            self.other.transport.close()
