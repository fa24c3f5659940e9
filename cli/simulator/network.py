"""Calls between simulated processes: the part of gRPC's interface that the services use, with a delay per message.

Messages are not serialised. A process that is killed ends its calls as a broken connection does.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio
from grpc_status import rpc_status

from services.common.errors import LightTtsError, to_status

Serve = Callable[[AsyncIterator[Any]], AsyncGenerator[Any, None]]
"""A method of a service: requests in, responses out. It raises LightTtsError."""


_NETWORK = contextvars.Context()
"""Messages that are under way belong to no process: they arrive even if their sender freezes."""


class _End:
    """The end of the responses."""


class _Wire:
    """Delivers messages in order, each `delay` seconds after it was sent, to one receiver."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._loop = asyncio.get_running_loop()
        self._messages: deque[Any] = deque()
        """Those that have arrived, then those under way."""
        self._arrived = 0
        self._waiting: asyncio.Future[None] | None = None
        """Of the receiver, while no message has arrived."""

    def send(self, message: Any) -> None:
        self._messages.append(message)
        self._loop.call_later(self._delay, self._deliver, context=_NETWORK)

    def _deliver(self) -> None:
        self._arrived += 1
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def wake(self) -> None:
        """Let the receiver look at once, at None."""
        self._messages.insert(self._arrived, None)
        self._deliver()

    async def receive(self) -> Any:
        while not self._arrived:  # not by asyncio.Queue, which takes three times the memory for any number of receivers
            self._waiting = self._loop.create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        self._arrived -= 1
        return self._messages.popleft()


def broken(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    """Return an error that gRPC itself raises, not the server."""
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


class Call:
    """One bidirectional call, with the methods of a `grpc.aio.StreamStreamCall` that the services use."""

    def __init__(
        self,
        serve: Serve,
        delay: float,
        on_end: Callable[[Call], None],
        context: contextvars.Context | None = None,
    ) -> None:
        """`context` is the one of the server's process."""
        self._requests, self._responses = _Wire(delay), _Wire(delay)
        self._loop, self._delay, self._on_end = asyncio.get_running_loop(), delay, on_end
        self._ended = self._cancelled = False
        self._serving = asyncio.create_task(self._answer(serve), context=context)
        self._serving.add_done_callback(self._served, context=_NETWORK)

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Do nothing: it is for a status that grpcio overwrites, and nothing overwrites one here."""

    async def write(self, request: Any) -> None:
        if self._ended:
            raise asyncio.InvalidStateError("the call has ended")
        self._requests.send(request)

    def cancel(self) -> bool:
        """End the call: who reads it gets a CancelledError, and its server stops when this reaches it."""
        if not self._ended:
            self._cancelled = True
            self._responses.wake()
        self._ended = True
        self._loop.call_later(self._delay, self._serving.cancel, context=_NETWORK)
        return True

    def disconnect(self) -> None:
        """End the call as the end of the server's process does."""
        self._serving.cancel()
        self._responses.send(broken(grpc.StatusCode.UNAVAILABLE, "the connection broke"))

    async def __aiter__(self) -> AsyncIterator[Any]:
        while True:
            response = await self._responses.receive()
            if self._cancelled:
                raise asyncio.CancelledError
            self._ended = self._ended or isinstance(response, _End | grpc.aio.AioRpcError)
            if isinstance(response, _End):
                return
            if isinstance(response, grpc.aio.AioRpcError):
                raise response
            yield response

    async def _answer(self, serve: Serve) -> None:
        try:
            async with aclosing(serve(self._received())) as responses:
                async for response in responses:
                    self._responses.send(response)
        except LightTtsError as error:
            status: Any = rpc_status.to_status(to_status(error))
            trailing = grpc.aio.Metadata(*status.trailing_metadata)
            self._responses.send(grpc.aio.AioRpcError(status.code, grpc.aio.Metadata(), trailing, status.details))
        else:
            self._responses.send(_End())

    async def _received(self) -> AsyncIterator[Any]:
        while True:
            yield await self._requests.receive()

    def _served(self, task: asyncio.Task[None]) -> None:
        self._on_end(self)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": "a simulated service failed", "exception": error})


class Channel:
    """The connection to one process, with the methods of a `grpc.aio.Channel` that stubs and pools use."""

    def __init__(
        self,
        methods: Callable[[str], Serve | None],
        begin: Callable[[Serve], Call],
        check: Callable[[float], Awaitable[None]],
    ) -> None:
        """`methods` returns the method of a path such as /lighttts.v1.Decode/Decode; `begin` begins a call of it;
        `check` is a health check, which raises AioRpcError if there is no answer within some seconds."""
        self._methods, self._begin, self._check = methods, begin, check

    def stream_stream(self, path: str, **serializers: Any) -> Callable[..., Call]:
        def call(**options: Any) -> Call:
            serve = self._methods(path)
            if serve is None:
                raise NotImplementedError(f"{path} is not simulated")
            return self._begin(serve)

        return call

    def unary_unary(self, path: str, **serializers: Any) -> Callable[..., Any]:
        """Return what stubs keep for their other methods; of them, only the health check is called."""

        async def call(request: Any, **options: Any) -> None:
            if path != "/grpc.health.v1.Health/Check":
                raise NotImplementedError(f"{path} is not simulated")
            await self._check(options["timeout"])

        return call

    unary_stream = stream_unary = unary_unary

    async def close(self, grace: float | None = None) -> None:
        """Do nothing: its calls end by themselves."""
