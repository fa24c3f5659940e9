"""uvicorn's HTTP and WebSocket protocols with the limits that uvicorn lacks.

They concern headers that do not arrive, the bytes of frames, and clients that read nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from gateway.auth.caller import ANONYMOUS
from gateway.auth.shares import Shares
from gateway.process.connections import CLOSED
from services.common.errors import LightTtsError

LINGER_SECONDS = 5.0
"""Longest time in which the rest of a body is dropped after its request has been answered. A connection that closes at
once would take the answer from a client that still sends."""
LINGER_BYTES = 32 * 2**20
"""Most bytes of such a rest: more than a body may have."""


class ReadLimit(asyncio.Protocol):
    """Aborts a connection whose client reads nothing for `read_seconds` while an answer waits for it.

    Without it the answer waits without a limit, and holds its request. A close would wait for the client as well.
    """

    transport: asyncio.Transport
    read_seconds: float
    _unread: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        self._unwatch()
        super().resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(error)

    def _watch(self) -> None:
        self._unwatch()
        left = self.transport.get_write_buffer_size()
        self._unread = asyncio.get_running_loop().call_later(self.read_seconds, self._check, left)

    def _unwatch(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _check(self, left: int) -> None:
        # A long answer is one write: a client that reads it slowly makes the buffer smaller, but does not empty it.
        if self.transport.get_write_buffer_size() < left:
            self._watch()
        else:
            self.transport.abort()


def with_deadlines(base: type[H11Protocol], header_seconds: float, idle_seconds: float) -> type[H11Protocol]:
    """Return a subclass of `base` that closes connections whose requests do not arrive or whose answers are not read.

    `header_seconds`: longest time to the end of a request's headers, from its first byte, or for the first request of
    a connection from its start. `idle_seconds`: longest time in which a client reads nothing of an answer.
    """

    class WithDeadlines(ReadLimit, base):  # type: ignore[misc, valid-type]  # mypy: the class is a parameter
        read_seconds = idle_seconds

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._deadline: asyncio.TimerHandle | None = None
            self._lingering: int | None = None
            """Bytes of an answered request's body that may still arrive; None if its body has been read."""

        @property
        def idle(self) -> bool:
            """Whether no request is in progress on this connection."""
            return self.transport.get_protocol() is self and not self._answering

        @property
        def _answering(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self._expect(header_seconds)

        def data_received(self, data: bytes) -> None:
            if self._deadline is None and self.idle:
                self._expect(header_seconds)
            super().data_received(data)
            if not self.idle:
                self._settle()
            elif self._lingering is not None:
                self._drop(len(data))

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.conn.their_state is h11.SEND_BODY:
                self._lingering = LINGER_BYTES
                self._expect(LINGER_SECONDS)

        def connection_lost(self, error: Exception | None) -> None:
            self._settle()
            super().connection_lost(error)

        def _drop(self, size: int) -> None:
            if self._lingering is None or self.conn.their_state is not h11.SEND_BODY:
                self._lingering = None
                self._expect(header_seconds)
                return
            self._lingering -= size
            if self._lingering < 0:
                self.transport.abort()

        def _expect(self, seconds: float) -> None:
            self._settle()
            self._deadline = self.loop.call_later(seconds, self._expire)

        def _settle(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _expire(self) -> None:
            CLOSED.labels("deadline").inc()
            self.transport.abort()

    return WithDeadlines


def with_budget(budget: Shares, idle_seconds: float) -> type[WebSocketsSansIOProtocol]:
    """Return a WebSocket protocol that counts the bytes of incomplete messages, and closes the connection without room.

    Only complete messages reach the application, which counts what it keeps. `idle_seconds`: longest time in which a
    client reads nothing of what waits for it.
    """

    class WithBudget(ReadLimit, WebSocketsSansIOProtocol):
        read_seconds = idle_seconds

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._counted = 0

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._count(len(self.conn.reader.buffer) + sum(map(len, self.frames)))

        def connection_lost(self, error: Exception | None) -> None:
            self._count(0)
            super().connection_lost(error)

        def _count(self, size: int) -> None:
            budget.give(ANONYMOUS, self._counted)
            self._counted = 0
            try:
                budget.take(ANONYMOUS, size)
                self._counted = size
            except LightTtsError:
                self.transport.abort()

    return WithBudget
