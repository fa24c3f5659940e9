"""Releases what grpcio allocates for a step of a call (a "batch", such as one read), also when no task waits for it.

A batch's memory holds the message that is sent or received. grpcio frees it in the coroutine that waits for the batch:
not if that coroutine was cancelled, and not if the batch failed (grpc/grpc issue 43360, in every version up to 1.85).
Each client that leaves while audio arrives would cost the process a message that no object of Python shows.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import wraps
from importlib import import_module
from typing import Any, TypeAlias

Execute: TypeAlias = Callable[[Any, Any, Any], Coroutine[Any, Any, None]]
"""Starts operations of a call and waits until they have ended."""

_CYGRPC: Any = import_module("grpc._cython.cygrpc")  # grpcio's own code, which its type stubs leave out
_EXPECTED = ("grpc_call_wrapper", "operations", "loop")


def release_batches() -> None:
    """Let grpcio release every batch as soon as it ends, in the whole process.

    Does nothing if a later grpcio executes batches in another way, and at a second call.
    """
    execute = getattr(_CYGRPC, "execute_batch", None)
    if execute is None or hasattr(execute, "__wrapped__"):
        return
    if tuple(inspect.signature(execute).parameters) == _EXPECTED:
        _CYGRPC.execute_batch = _released(execute)


def _released(execute: Execute) -> Callable[[Any, Any, asyncio.AbstractEventLoop], asyncio.Future[None]]:
    @wraps(execute)
    def execute_batch(grpc_call_wrapper: Any, operations: Any, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        batch = _Batch(loop)
        batch.steps = execute(grpc_call_wrapper, operations, batch)
        batch.steps.send(None)
        return batch.ended

    return execute_batch


class _Batch(Awaitable[None]):
    """Runs grpcio's coroutine of one batch, which frees its memory, in two steps: to the start, and when it has ended.

    Towards grpcio it is both the loop that creates a future and this future.
    """

    __slots__ = ("_loop", "ended", "steps")

    steps: Coroutine[Any, Any, None]
    """grpcio's coroutine."""
    cancelled = staticmethod(bool)
    """Returns False: grpcio would leave a cancelled future without a result."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.ended: asyncio.Future[None] = asyncio.Future(loop=loop)
        """What the call waits for; a cancellation ends this wait alone."""
        self._loop = loop

    def create_future(self) -> _Batch:
        return self

    def __await__(self) -> Iterator[None]:  # type: ignore[override]  # an iterator is enough, and costs less
        return iter((None,))  # one wait, which ends with the batch

    def call_soon_threadsafe(self, callback: Callable[..., object], *arguments: object) -> None:
        if asyncio._get_running_loop() is self._loop:
            callback(*arguments)
        else:
            self._loop.call_soon_threadsafe(callback, *arguments)

    def set_result(self, error: Exception | None) -> None:
        """End the batch. grpcio gives None, or the error of a failed batch, whose memory is freed too."""
        try:
            self.steps.send(None)
        except StopIteration:
            pass
        except Exception as defect:  # noqa: BLE001 - whoever waits must learn of it
            error = error or defect
        if self.ended.done():
            return
        if error is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(error)

    set_exception = set_result
