"""One port for HTTP and gRPC, so that both kinds of CosyVoice client connect unmodified.

CosyVoice's HTTP server and its gRPC server are separate programs, and both default to port 50000. One port that serves
both lets a client of either kind connect to its default address.

Every HTTP/2 connection starts with the same bytes (RFC 9113, section 3.4), and no HTTP/1 request starts with them.
uvicorn supports HTTP/1 only, so HTTP/2 connections are passed on to the gRPC server (gateway.process.relay).
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from gateway.process.relay import PREFACE, ClientEnd, Relays


def http_or_grpc(relays: Relays) -> type[H11Protocol]:
    """Return a uvicorn protocol class that passes gRPC connections on."""

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
                relay = ClientEnd(relays)
                self.transport.set_protocol(relay)
                relay.begin(self.transport, head)
            else:
                self._head = None
                super().data_received(head)

    return HttpOrGrpc
