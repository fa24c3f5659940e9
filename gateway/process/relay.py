"""gRPC connections, passed on to the gRPC server byte by byte, so that a drain ends them without losing a call.

gRPC for Python sends GOAWAY only when a server stops, and a server that stops cancels each call that it receives from
then on (Server::CallData::StartNewRpc in grpc-core). A call and a GOAWAY that cross on the network would end the call
with CANCELLED. Therefore the bytes of the server pass through this module, and it inserts a GOAWAY that permits every
stream (RFC 9113, section 6.8): the client opens its next calls on another connection, and the server continues to
serve what is on its way. The answer to a PING behind the GOAWAY shows that the client has read it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from typing import cast

import structlog

from gateway.process.deadlines import ReadLimit

log = structlog.get_logger(__name__)

_HEAD_BYTES = 9
_DATA, _HEADERS, _RESET, _PING, _GOAWAY, _CONTINUATION = 0, 1, 3, 6, 7, 9
_ACK = _END_STREAM = 1
_END_HEADERS = 4
_LAST_STREAM = (2**31 - 1).to_bytes(4, "big")
_NO_ERROR = bytes(4)
_MARK_BYTES = 8
_NAME = "lighttts-client"
"""Begins the names of the relay's sockets."""
READ_SECONDS = 15.0
"""Longest time in which a client reads nothing of what waits for it. The gRPC server gives a client up earlier, for a
PING without an answer (gateway.settings.CLIENT_SILENCE_MS). A relay that waits for the client reads nothing from the
server either, so it does not learn of it."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""The first bytes of a client, before its frames."""


def _frame(kind: int, flags: int, content: bytes) -> bytes:
    """Return a frame of the connection itself (stream 0)."""
    return len(content).to_bytes(3, "big") + bytes((kind, flags)) + bytes(4) + content


class Frames:
    """Follows the frames in one direction of a connection."""

    def __init__(self, begins: Callable[[int, int, int], None], before: int = 0) -> None:
        """`begins` is called with kind, flags and stream of each frame. `before`: bytes in front of the first frame."""
        self._begins = begins
        self._head = b""
        self._left = before
        """Bytes of the current frame that have not come yet."""
        self._open = True
        """Whether the next frame belongs to the last one: the parts of a header block. The first frame is settings."""

    @property
    def between(self) -> bool:
        """Whether another frame may be inserted now."""
        return not (self._left or self._head or self._open)

    def advance(self, data: bytes) -> int:
        """Read on. Return the last place in `data` where a frame may be inserted, or -1."""
        at, place = 0, -1
        while at < len(data):
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
            else:
                step = min(_HEAD_BYTES - len(self._head), len(data) - at)
                self._head += data[at : at + step]
                if len(self._head) == _HEAD_BYTES:
                    self._begin(self._head)
                    self._head = b""
            at += step
            if self.between:
                place = at
        return place

    def _begin(self, head: bytes) -> None:
        self._left = int.from_bytes(head[:3], "big")
        kind, flags = head[3], head[4]
        self._open = kind in (_HEADERS, _CONTINUATION) and not flags & _END_HEADERS
        self._begins(kind, flags, int.from_bytes(head[5:], "big"))


def _named_socket(transport: asyncio.BaseTransport) -> socket.socket:
    """Return a Unix socket for the connection to the server, whose name tells the server the client's address."""
    end = socket.socket(socket.AF_UNIX)
    end.setblocking(False)
    host, port = (transport.get_extra_info("peername") or ("", 0))[:2]
    own = transport.get_extra_info("sockname") or ("", 0)
    with contextlib.suppress(OSError):  # a system without abstract names: the address stays unknown
        end.bind(f"\0{_NAME}/{os.getpid()}/{own[1]}/{port}/{host}")
    return end


def client_address(peer: str) -> str:
    """Return the address of the client, from the name of the server's peer; empty if it is unknown."""
    _, found, name = peer.partition(f":{_NAME}/")
    return name.split("/", 3)[-1] if found else ""


class Relays:
    """The connections that are passed on to one gRPC server, which listens on a Unix socket."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.retired = False
        self._open: set[ClientEnd] = set()
        self._none = asyncio.Event()
        self._none.set()

    @property
    def streams(self) -> int:
        """Calls that clients have begun and that have not ended, those that the server has not seen yet included."""
        return sum(len(relay.streams) for relay in self._open)

    def add(self, relay: ClientEnd) -> None:
        self._open.add(relay)
        self._none.clear()
        if self.retired:
            relay.retire()

    def discard(self, relay: ClientEnd) -> None:
        self._open.discard(relay)
        if not self._open:
            self._none.set()

    async def retire(self, seconds: float) -> None:
        """Ask all clients to open their next calls on other connections; wait until they have read it.

        A client that does not answer within `seconds` is not waited for. Calls go on, and so do the connections.
        """
        self.retired = True
        for relay in self._open:
            relay.retire()
        try:
            async with asyncio.timeout(seconds):
                while waiting := self._present():
                    await waiting[0].gone.wait()
        except TimeoutError:
            log.warning("clients have not read GOAWAY in time", connections=len(self._present()))

    def _present(self) -> list[ClientEnd]:
        """Return the connections on which clients may open further calls."""
        return [relay for relay in self._open if not relay.gone.is_set()]

    async def close(self, seconds: float) -> None:
        """Close all connections. Those that the server has closed have `seconds` for what the client has not read."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._none.wait(), seconds)
        for relay in list(self._open):
            relay.abort()


class _End(asyncio.Protocol):
    """One end of a connection: the other end writes what this one reads, and pauses it when its buffer is full."""

    other: _End | None = None
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def close(self) -> None:
        """Close the connection when everything has been written to it."""
        self.transport.close()

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        if self.other is not None:
            self.other.close()


class ClientEnd(ReadLimit, _End):
    """The client's end of a connection."""

    read_seconds = READ_SECONDS

    def __init__(self, relays: Relays) -> None:
        self._relays = relays
        self._early = b""
        """What the client has sent before there is a connection to the server."""
        self._connecting: asyncio.Task[None] | None = None
        self._mark = b""
        """The answer to the PING that follows the GOAWAY; empty before it."""
        self._tail = b""
        self._frames = Frames(self._frame_begins, len(PREFACE))
        self._newest = 0
        self.streams: set[int] = set()
        """The streams that have not ended."""
        self.idle = True
        """Whether the client has sent nothing so far."""
        self.gone = asyncio.Event()
        """Set when the client opens no more calls here."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.begin(cast(asyncio.Transport, transport), b"")

    def begin(self, transport: asyncio.Transport, head: bytes) -> None:
        """Connect to the server. `head`: what has been read from the client already."""
        self.transport = transport
        if head:
            self.data_received(head)
        transport.pause_reading()
        self._relays.add(self)
        self._connecting = asyncio.get_running_loop().create_task(self._connect(transport))

    async def _connect(self, transport: asyncio.Transport) -> None:
        server = _ServerEnd(self)
        loop = asyncio.get_running_loop()
        try:
            with contextlib.ExitStack() as unless_connected:
                end = unless_connected.enter_context(_named_socket(transport))
                await loop.sock_connect(end, self._relays.path)
                await loop.create_unix_connection(lambda: server, sock=end)
                unless_connected.pop_all()
        except OSError:
            transport.close()
            return
        self.other = server
        server.write(self._early)
        self._early = b""
        if self._relays.retired:
            self.retire()
        transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self.idle = False
        self._frames.advance(data)
        if self._mark:
            self._look_for_mark(data)
        if self.other is None:
            self._early += data
        else:
            self.other.write(data)

    def _frame_begins(self, kind: int, flags: int, stream: int) -> None:
        if kind == _HEADERS and stream > self._newest:
            self._newest = stream
            self.streams.add(stream)
        elif kind == _RESET:
            self.streams.discard(stream)

    def retire(self) -> None:
        """Send GOAWAY as soon as it fits between two frames."""
        if isinstance(self.other, _ServerEnd):
            self.other.insert_goaway()

    def goaway(self) -> bytes:
        """Return the frames that end the connection for new calls."""
        mark = os.urandom(_MARK_BYTES)
        self._mark = _frame(_PING, _ACK, mark)
        return _frame(_GOAWAY, 0, _LAST_STREAM + _NO_ERROR) + _frame(_PING, 0, mark)

    def close(self) -> None:
        self.streams.clear()  # the server has ended them
        if not self.transport.is_closing():
            super().close()
            self._watch()  # a client that reads nothing does not let the connection close

    def abort(self) -> None:
        self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        self._relays.discard(self)
        self.gone.set()
        super().connection_lost(error)

    def _look_for_mark(self, data: bytes) -> None:
        # The gRPC server ignores answers to a PING that it has not sent, so this one is passed on.
        seen = self._tail + data
        if self._mark in seen:
            self._mark = self._tail = b""
            self.gone.set()
        else:
            self._tail = seen[1 - len(self._mark) :]


class _ServerEnd(_End):
    """The gRPC server's end of a connection."""

    def __init__(self, client: ClientEnd) -> None:
        self.other = self._client = client
        self._frames = Frames(self._frame_begins)
        self._wanted = False
        self._sent = False
        self._own_goaway = False
        """Whether the server itself has sent GOAWAY; another one must not permit more streams than the first."""

    def insert_goaway(self) -> None:
        self._wanted = True
        if self._frames.between:
            self._client.write(self._goaway())

    def data_received(self, data: bytes) -> None:
        place = self._frames.advance(data)
        if self._wanted and not self._sent and place >= 0:
            data = data[:place] + self._goaway() + data[place:]
        self._client.write(data)

    def _frame_begins(self, kind: int, flags: int, stream: int) -> None:
        if kind == _RESET or (kind in (_DATA, _HEADERS) and flags & _END_STREAM):
            self._client.streams.discard(stream)
        elif kind == _GOAWAY:
            self._own_goaway = True

    def _goaway(self) -> bytes:
        if self._sent:
            return b""
        self._sent = True
        if self._own_goaway:
            self._client.gone.set()
            return b""
        return self._client.goaway()
