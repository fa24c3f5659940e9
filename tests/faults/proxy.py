"""A TCP proxy on loopback that can delay, throttle, stall, reset and refuse connections."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from contextlib import suppress
from typing import Self

from cli.local.ports import HOST

PIECE = 16384
"""Most bytes that are forwarded at once."""


class Proxy:
    """Forwards connections to `port_behind`. The fields `delay`, `rate` and `refuse` apply at once."""

    def __init__(self, port_behind: int, seed: int = 0) -> None:
        self.port = 0
        """Port on which the proxy listens after it is entered."""
        self.delay = 0.0
        """Mean delay per piece and direction, in seconds; each delay is random, 0.5 to 1.5 times this."""
        self.rate = 0.0
        """Bytes per second and direction; 0 is unlimited."""
        self.refuse = False
        """Whether new connections are reset at once."""
        self._port_behind = port_behind
        self._random = random.Random(seed)
        self._forwarding = asyncio.Event()
        self._forwarding.set()
        self._answering = asyncio.Event()
        self._answering.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        self.restore()
        self.reset()
        await asyncio.gather(*self._connections)

    def stall(self) -> None:
        """Forward nothing until `restore`; connections stay open."""
        self._forwarding.clear()

    def stall_answers(self) -> None:
        """Forward nothing to clients until `restore`; what they send is forwarded."""
        self._answering.clear()

    def reset(self) -> None:
        """Reset every open connection."""
        for writer in self._writers:
            _reset(writer)

    def restore(self) -> None:
        """End every disturbance."""
        self.delay = self.rate = 0.0
        self.refuse = False
        self._forwarding.set()
        self._answering.set()

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self._connect(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.refuse:
                raise ConnectionRefusedError
            far_reader, far_writer = await asyncio.open_connection(HOST, self._port_behind)
        except OSError:
            _reset(writer)
            return
        both = {writer, far_writer}
        self._writers |= both
        try:
            await asyncio.gather(self._forward(reader, far_writer), self._forward(far_reader, writer, self._answering))
        finally:
            self._writers -= both
            for end in both:
                end.transport.abort()
            await asyncio.gather(*(end.wait_closed() for end in both), return_exceptions=True)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, allowed: asyncio.Event | None = None
    ) -> None:
        try:
            while data := await reader.read(PIECE):
                if self.delay:
                    await asyncio.sleep(self.delay * self._random.uniform(0.5, 1.5))
                if self.rate:
                    await asyncio.sleep(len(data) / self.rate)
                await self._forwarding.wait()
                if allowed is not None:
                    await allowed.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # either end was reset
        finally:
            writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with RST; without SO_LINGER an abort would close it normally."""
    with suppress(OSError):  # closed already
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
