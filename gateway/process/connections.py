"""Bounds on connections: how many a port holds, in all and per address, and how long each may take to make a request.

A client that connects and sends nothing costs a file descriptor. At the limit, the oldest connection without a request
is closed in favour of the new one, so that probes and other clients still get in.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import structlog
from prometheus_client import Counter as Metric

log = structlog.get_logger(__name__)

CLOSED = Metric(
    "lighttts_gateway_connections_closed_total",
    "Connections closed by the gateway before they made a request, by reason.",
    ["reason"],
)
"""`reason`: `limit` (too many, in all or from one address), `deadline` (handshake or headers took too long).
Both series exist from the start: an alert cannot see an increase in a series that appears with its first event."""
for _reason in ("limit", "deadline"):
    CLOSED.labels(_reason)

RESERVED_FILES = 64
"""File descriptors that connections of clients leave free: workers, stores, logs."""
SHARES = 7
"""Parts into which the other descriptors are divided: a connection of HTTP needs one; one of gRPC, and one of
CosyVoice's port if it speaks gRPC, needs three (see gateway.process.relay)."""
BACKLOG = 2048
"""Connections that the kernel keeps until they are accepted."""


@dataclass(frozen=True)
class ConnectionLimits:
    total: int = 1024
    """Most connections of the port; fewer if the process may open few files."""
    per_address: int = 512
    """Most connections of one client address; at most half of all."""
    handshake_seconds: float = 10.0
    header_seconds: float = 10.0


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; `::` accepts IPv4 too, as in gRPC. Raises OSError."""
    host = host.strip("[]")  # gRPC needs brackets around an IPv6 address, sockets refuse them
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=host == "::")


def connection_limit(wanted: int) -> int:
    """Return the connections that one port may hold: `wanted`, or fewer if the process may open few files."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, (files - RESERVED_FILES) // SHARES))


class Connections:
    """The open connections of a port, oldest first."""

    def __init__(self, total: int, per_address: int) -> None:
        self._total = total
        self._per_address = per_address
        self._open: dict[Gate, str] = {}

    def __len__(self) -> int:
        self._drop_closed()
        return len(self._open)

    def admit(self, gate: Gate, address: str) -> bool:
        """Count a new connection. Close an idle one if there are too many; return False if all of them are in use."""
        self._drop_closed()
        addresses = Counter(self._open.values())
        if addresses[address] >= self._per_address and not self._close_oldest(address):
            return False
        if len(self._open) >= self._total and not self._close_oldest(None):
            return False
        self._open[gate] = address
        return True

    def abort(self) -> None:
        """Close all connections at once."""
        self._drop_closed()
        for gate in self._open:
            gate.abort()

    def _drop_closed(self) -> None:
        # A connection that changes its protocol (TLS, WebSocket, gRPC) reports its end to the last protocol only.
        for gate in [gate for gate in self._open if gate.closed]:
            del self._open[gate]

    def _close_oldest(self, address: str | None) -> bool:
        for gate, of in self._open.items():
            if gate.idle and address in (None, of):
                CLOSED.labels("limit").inc()
                gate.abort()
                del self._open[gate]
                return True
        return False


class Gate(asyncio.Protocol):
    """The first protocol of a connection: counts it, does the TLS handshake, and hands it to the next protocol."""

    def __init__(
        self,
        serve: Callable[[], asyncio.Protocol],
        connections: Connections,
        tls: ssl.SSLContext | None,
        handshake_seconds: float,
    ) -> None:
        """`serve`: makes the next protocol, HTTP (gateway.process.deadlines) or gRPC (gateway.process.relay)."""
        self._serve = serve
        self._connections = connections
        self._tls = tls
        self._handshake_seconds = handshake_seconds
        self._transport: asyncio.Transport | None = None
        self._next: Any = None
        self._handshake: asyncio.Task[None] | None = None
        self._early = b""
        """What the client sent together with the end of its handshake."""

    @property
    def closed(self) -> bool:
        return self._transport is None or self._transport.get_extra_info("socket").fileno() < 0

    @property
    def idle(self) -> bool:
        return self._next is None or bool(self._next.idle)

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)  # of a stream
        address = (transport.get_extra_info("peername") or [""])[0]
        if not self._connections.admit(self, address):
            CLOSED.labels("limit").inc()
            log.warning("connection refused: all connections are in use", address=address)
            transport.abort()
        elif self._tls is None:
            self._hand_over(transport)
        else:
            transport.pause_reading()
            self._handshake = asyncio.get_running_loop().create_task(self._secure(transport, self._tls))

    def _hand_over(self, transport: asyncio.Transport) -> None:
        self._next = self._serve()
        transport.set_protocol(self._next)
        self._next.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._early += data

    async def _secure(self, transport: asyncio.Transport, tls: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        try:
            secured = await loop.start_tls(
                transport, self, tls, server_side=True, ssl_handshake_timeout=self._handshake_seconds
            )
        except (OSError, ssl.SSLError) as error:  # a timeout is a ConnectionAbortedError
            if isinstance(error, ConnectionAbortedError):
                CLOSED.labels("deadline").inc()
            log.debug("the TLS handshake failed", reason=str(error))
            transport.abort()
            return
        if secured is not None:
            self._hand_over(secured)
            if self._early:
                self._next.data_received(self._early)
