"""The relay of a gRPC connection whose client is gone or frozen: the connection and its calls end."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from cli.local.ports import HOST
from gateway.process.relay import PREFACE, ClientEnd, Relays
from tests.support.llm import until

LIMIT_SECONDS = 60.0


def frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    return len(content).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + content


CALL = PREFACE + frame(4, 0, 0) + frame(1, 4, 1)
"""A client's settings, and the headers of a call on stream 1."""
ANSWER = frame(0, 0, 1, bytes(2**14))


@pytest.mark.parametrize("more_than_fits", [False, True])
async def test_a_client_that_reads_nothing_does_not_keep_its_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more_than_fits: bool
) -> None:
    """Neither while it holds the server back, nor after the server has closed the connection."""
    monkeypatch.setattr(ClientEnd, "read_seconds", 0.01)
    relays, ends = Relays(str(tmp_path / "grpc")), list[ClientEnd]()

    def end() -> ClientEnd:
        ends.append(ClientEnd(relays))
        return ends[-1]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(CALL))
        await until(lambda: relays.streams == 1)
        if more_than_fits:
            writer.write(1024 * ANSWER)
            await ends[0].gone.wait()
        while not ends[0].transport.get_write_buffer_size() and not ends[0].gone.is_set():
            writer.write(ANSWER)
            await asyncio.sleep(0)
        writer.transport.abort()

    loop = asyncio.get_running_loop()
    server = await asyncio.start_unix_server(serve, relays.path)
    port = await loop.create_server(end, HOST, 0)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**12)
        client.connect(port.sockets[0].getsockname())
        client.sendall(CALL)
        async with asyncio.timeout(LIMIT_SECONDS), server, port:
            await until(lambda: bool(ends))
            await ends[0].gone.wait()
            assert relays.streams == 0
