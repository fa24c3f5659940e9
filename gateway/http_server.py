"""uvicorn inside a process that has a life of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from services.common.server import StartError
from services.common.tls import TlsFiles, server_context

_SHUTDOWN_SECONDS = 5


class HttpServer:
    """Serves an ASGI application on the running loop, from `start` to `close`."""

    def __init__(self, app: ASGIApp, host: str, port: int, tls: TlsFiles | None = None) -> None:
        self._host = host
        self._port = port
        config = uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        )
        self._config = config
        self._tls = tls
        self._server = _Uvicorn(config)
        self._serving: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port it listens on, once started."""
        return self._port

    async def start(self) -> None:
        """Listens and returns. Raises StartError when the port is taken, TlsError when the certificate is no good."""
        self._config.load()
        if self._tls is not None:
            self._config.ssl = server_context(self._tls)
        try:
            # uvicorn would end the process when it cannot bind, so it is given a socket.
            listener = socket.create_server((self._host, self._port), family=_family(self._host), backlog=2048)
        except OSError as error:
            raise StartError(f"cannot listen on {self._host}:{self._port}: {error}; set LIGHTTTS_HTTP_PORT") from error
        self._port = listener.getsockname()[1]
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="http server")

    async def close(self) -> None:
        """Stops listening; responses still running are cut after a few seconds."""
        if self._serving is not None:
            self._server.should_exit = True
            await asyncio.wait({self._serving})


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals belong to the process's own bootstrap


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
