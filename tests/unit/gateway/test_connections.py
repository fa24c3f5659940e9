"""Connections that make no request: the deadline of the TLS handshake, and descriptors that stay free for others."""

from __future__ import annotations

import asyncio
import resource
import ssl
from contextlib import suppress

import pytest
from prometheus_client import REGISTRY

from cli.local.ports import HOST
from gateway.process.connections import RESERVED_FILES, SHARES, Connections, Gate, connection_limit
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
