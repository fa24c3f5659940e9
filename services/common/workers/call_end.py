"""The status with which a server ended a client's call, also when grpcio has overwritten it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeAlias, TypeVar

import grpc
import grpc.aio

T = TypeVar("T")
ResponseT = TypeVar("ResponseT")

Call: TypeAlias = "grpc.aio.StreamStreamCall[Any, ResponseT] | grpc.aio.UnaryStreamCall[Any, ResponseT]"
"""A client's call with a stream of responses."""

_WRITE_FAILED = "Internal error from Core"
"""grpcio's details when a write failed."""
_STATUS_WAIT_SECONDS = 1.0
"""Longest wait for the server's status after a write failed."""


class CallEnd:
    """Keep the status that the server sent. Create one right after the call, before anything is written to it.

    A server that ends a stream while the client still writes makes that write fail, and grpcio then overwrites the
    server's status with an INTERNAL of its own (grpc/grpc issue 36066): a full worker would look like a broken one.
    """

    def __init__(self, call: Any) -> None:
        self._sent: grpc.aio.AioRpcError | None = None
        self._known = asyncio.Event()
        call.add_done_callback(self._on_status)

    async def error(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """Return the server's status behind `error`, or UNAVAILABLE when the connection broke without a status."""
        if not _is_local(error):
            return error
        try:
            async with asyncio.timeout(_STATUS_WAIT_SECONDS):
                await self._known.wait()
        except TimeoutError:
            pass
        if self._sent is not None:
            return self._sent
        empty = grpc.aio.Metadata()
        return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, empty, empty, "the connection broke while sending")

    def _on_status(self, call: Any) -> None:
        """Store the status. grpcio calls this each time it sets one: before and after it overwrites the server's."""
        error = _at_once(_status(call))
        if self._sent is None and not _is_local(error):
            self._sent = error
            self._known.set()


async def answers(call: Call[ResponseT], end: CallEnd) -> AsyncGenerator[ResponseT]:
    """Yield every message of the server, even if our writes fail. Raises AioRpcError with the server's status.

    It iterates over the call, because the call's `read` drops messages that have already arrived when a write fails.
    """
    try:
        async for response in call:
            yield response
    except grpc.aio.AioRpcError as error:
        answer = await end.error(error)
        if answer.code() is not grpc.StatusCode.OK:
            raise answer from error


def _is_local(error: grpc.aio.AioRpcError) -> bool:
    return error.code() is grpc.StatusCode.INTERNAL and error.details() == _WRITE_FAILED


async def _status(call: Any) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        await call.code(), await call.initial_metadata(), await call.trailing_metadata(), await call.details()
    )


def _at_once(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that does not wait, and return its result; a task would run too late."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise RuntimeError("the call's status is not known yet")
