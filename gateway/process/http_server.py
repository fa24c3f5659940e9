"""Runs uvicorn inside a process that handles its own startup and signals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from gateway.process.connections import ConnectionLimits, Connections, Gate, connection_limit, listen
from gateway.process.deadlines import with_deadlines
from gateway.process.departures import Departures, drop_client_faults
from services.common.start_error import StartError
from services.common.tls import TlsFiles, server_context

_SHUTDOWN_SECONDS = 5


class HttpServer:
    """Serves an ASGI application on the running loop, from `start` to `close`."""

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        port: int,
        tls: TlsFiles | None = None,
        *,
        max_frame_bytes: int = 2**24,
        protocol: type[H11Protocol] = H11Protocol,
        websockets: type[asyncio.Protocol] | None = None,
        limits: ConnectionLimits | None = None,
        idle_seconds: float = 300.0,
        port_setting: str = "LIGHTTTS_HTTP_PORT",
        alpn: Sequence[str] = (),
    ) -> None:
        """`max_frame_bytes`: limit of a WebSocket message. `websockets`: their protocol, by default uvicorn's.
        `idle_seconds`: longest time in which a client reads nothing of an answer. A WebSocket's client may take as long
        to answer a ping: first it reads the audio before the ping.
        `port_setting`: what to change if the port is in use. `alpn`: the protocols of the port, for TLS clients."""
        self._limits = limits = limits or ConnectionLimits()
        total = connection_limit(limits.total)
        self._connections = Connections(total, min(limits.per_address, max(1, total // 2)))
        self._port_setting = port_setting
        self._host = host
        self._port = port
        self._reconnects = _Reconnects(app)
        logging.getLogger("uvicorn.error").addFilter(drop_client_faults)
        config = uvicorn.Config(
            Departures(self._reconnects),
            lifespan="off",
            http=with_deadlines(protocol, limits.header_seconds, idle_seconds),
            ws=websockets or "websockets-sansio",
            ws_max_size=max_frame_bytes,
            ws_ping_timeout=idle_seconds,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        )
        self._config = config
        self._tls = tls
        self._alpn = alpn
        self._context: ssl.SSLContext | None = None
        self._server = _Uvicorn(config, self._gate)
        self._serving: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port it listens on, once it has started."""
        return self._port

    async def start(self) -> None:
        """Start to listen. Raises StartError if the port is in use, TlsError if the certificate cannot be used."""
        self._config.load()
        if self._tls is not None:
            self._context = server_context(self._tls, self._alpn)
        try:
            # uvicorn would exit the process if it could not bind, so it gets a socket that listens already.
            listener = listen(self._host, self._port)
        except OSError as error:
            raise StartError(
                f"cannot listen on {self._host}:{self._port}: {error}; set {self._port_setting}"
            ) from error
        self._port = listener.getsockname()[1]
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="http server")

    def retire(self) -> None:
        """Close each connection after its next answer, and say so in the answer: clients connect again elsewhere."""
        self._reconnects.wanted = True

    async def close(self) -> None:
        """Stop listening. Responses that still run are cut after a few seconds."""
        if self._serving is not None:
            self._server.should_exit = True
            await asyncio.wait({self._serving})
        self._connections.abort()

    def _gate(self) -> Gate:
        return Gate(self._server.protocol, self._connections, self._context, self._limits.handshake_seconds)


class _Reconnects:
    """Adds `Connection: close` to answers while `wanted`; uvicorn then closes the connection."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.wanted = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_last(message: Message) -> None:
            if self.wanted and message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        await self._app(scope, receive, send_last if scope["type"] == "http" else send)


class _Uvicorn(uvicorn.Server):
    """Accepts connections through a gate, because uvicorn does not bound them."""

    def __init__(self, config: uvicorn.Config, gate: Callable[[], Gate]) -> None:
        super().__init__(config)
        self._gate = gate

    def protocol(self) -> asyncio.Protocol:
        """Make the HTTP protocol of a connection."""
        kind: Any = self.config.http_protocol_class
        made: asyncio.Protocol = kind(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
        return made

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        loop = asyncio.get_running_loop()
        for listener in sockets or ():
            self.servers.append(await loop.create_server(self._gate, sock=listener, backlog=self.config.backlog))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # the process itself handles signals
