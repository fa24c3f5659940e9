"""Connections that make no request: the deadline of the TLS handshake, and descriptors that stay free for others."""

from __future__ import annotations

import asyncio
import resource
import ssl
from contextlib import suppress

import pytest
import uvicorn
from fastapi import FastAPI
from prometheus_client import REGISTRY
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from cli.local.ports import HOST
from gateway.process.connections import RESERVED_FILES, SHARES, Connections, Gate, connection_limit
from gateway.process.deadlines import with_deadlines
from tests.support.llm import until


def closed(reason: str) -> float:
    return REGISTRY.get_sample_value("lighttts_gateway_connections_closed_total", {"reason": reason}) or 0.0


async def test_a_tls_handshake_that_does_not_arrive_ends_the_connection() -> None:
    """The client sends nothing, so no certificate is needed."""
    context, connections = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), Connections(10, 10)
    before = closed("deadline")

    def gate() -> Gate:
        return Gate(asyncio.Protocol, connections, context, handshake_seconds=0.02)

    server = await asyncio.get_running_loop().create_server(gate, HOST, 0)
    async with server, asyncio.timeout(60):
        reader, writer = await asyncio.open_connection(HOST, server.sockets[0].getsockname()[1])
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        await until(lambda: closed("deadline") == before + 1)
        assert len(connections) == 0


def test_connections_leave_descriptors_free(monkeypatch: pytest.MonkeyPatch) -> None:
    files = 256

    def limit(kind: int) -> tuple[int, int]:
        assert kind == resource.RLIMIT_NOFILE
        return files, files

    monkeypatch.setattr(resource, "getrlimit", limit)
    assert connection_limit(1024) * SHARES <= files - RESERVED_FILES
    assert connection_limit(5) == 5


NEVER = 3600.0
"""Seconds for the headers: otherwise their deadline would abort the connection."""


class Unread(asyncio.Transport):
    """A transport whose client reads a little between two looks at its buffer, and then nothing."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.sizes = sizes
        self.aborted = asyncio.Event()

    def is_closing(self) -> bool:
        return False

    def close(self) -> None: ...

    def get_write_buffer_size(self) -> int:
        return self.sizes.pop(0) if len(self.sizes) > 1 else self.sizes[0]

    def abort(self) -> None:
        self.aborted.set()


async def test_a_client_that_reads_slowly_is_not_disconnected_until_it_reads_nothing() -> None:
    kind = with_deadlines(H11Protocol, NEVER, 0.001)
    protocol = kind(config=uvicorn.Config(FastAPI()), server_state=ServerState(), app_state={})
    transport = Unread([9, 8, 8, 7, 7, 6, 6, 6])
    protocol.connection_made(transport)
    protocol.pause_writing()
    async with asyncio.timeout(10):
        await transport.aborted.wait()
    assert transport.sizes == [6]
    protocol.connection_lost(None)


async def test_a_client_that_has_read_its_answer_stays_connected() -> None:
    kind = with_deadlines(H11Protocol, NEVER, 0.001)
    protocol = kind(config=uvicorn.Config(FastAPI()), server_state=ServerState(), app_state={})
    transport = Unread([9])
    protocol.connection_made(transport)
    protocol.pause_writing()
    protocol.resume_writing()
    await asyncio.sleep(0.05)
    assert not transport.aborted.is_set()
    protocol.connection_lost(None)


class Parting(asyncio.Protocol):
    """Sends more than the sockets hold, and closes."""

    idle = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(bytes(2**24))
        transport.close()


async def test_a_connection_that_has_ended_does_not_keep_the_others_from_being_closed() -> None:
    connections = Connections(10, 10)
    gates: list[Gate] = []

    def gate() -> Gate:
        gates.append(Gate(Parting, connections, None, handshake_seconds=60))
        return gates[-1]

    server = await asyncio.get_running_loop().create_server(gate, HOST, 0)
    async with server, asyncio.timeout(60):
        reader, writer = await asyncio.open_connection(HOST, server.sockets[0].getsockname()[1])
        assert len(await reader.read()) == 2**24
        writer.close()
        await until(lambda: gates[0].closed)
        connections.abort()
