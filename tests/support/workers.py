"""Real grpc.aio workers on loopback for tests of pools, and a discovery whose list the test sets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services.common.rpc import channel_options

SERVICE = "lighttts.v1.Decode"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class FreezingHealth(health.aio.HealthServicer):
    """The standard health service, which does not answer checks while it is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.thawed = asyncio.Event()
        self.thawed.set()

    async def Check(self, request: Any, context: Any) -> Any:
        await self.thawed.wait()
        return await super().Check(request, context)


class EchoWorker:
    """A server with the standard health service and a bidirectional stream of bytes that echoes."""

    def __init__(self) -> None:
        self.port = 0
        self.host = "127.0.0.1"
        self._health = FreezingHealth()
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    async def start(self, status: int = SERVING, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen on `port`; by default on its previous port, or a free one."""
        self._health = FreezingHealth()
        await self.report(status)
        self._server = grpc.aio.server(options=channel_options(2**20))
        echo: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(_echo)
        handlers = {"Echo": echo}
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Echo", handlers)])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self.host = host
        self.port = self._server.add_insecure_port(f"{host}:{port or self.port}")
        await self._server.start()

    async def report(self, status: int, service: str = SERVICE) -> None:
        await self._health.set(service, status)

    def freeze(self) -> None:
        """Stop answering health checks; the connection and the health watch stay open."""
        self._health.thawed.clear()

    def thaw(self) -> None:
        self._health.thawed.set()

    async def kill(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None


async def _echo(requests: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


class ListedWorkers:
    """A discovery that delivers the addresses the test puts in."""

    target = "test:///"

    def __init__(self, *addresses: str) -> None:
        self._sets: asyncio.Queue[frozenset[str]] = asyncio.Queue()
        self.put(*addresses)

    def put(self, *addresses: str) -> None:
        self._sets.put_nowait(frozenset(addresses))

    async def watch(self) -> AsyncGenerator[frozenset[str], None]:
        while True:
            yield await self._sets.get()
