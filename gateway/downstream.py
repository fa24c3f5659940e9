"""Calls to the stages behind: at which worker, and what its failure means to a client of the gateway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio
import structlog

from services.common.errors import LightTtsError, Unavailable, from_rpc_error
from services.common.pool import Pool
from services.common.workers.call_end import CallEnd

log = structlog.get_logger(__name__)

T = TypeVar("T")


def map_rpc_error(error: grpc.aio.AioRpcError) -> LightTtsError:
    """The error to raise for a failed call. A call we cancel ourselves never gets here: CANCELLED is the worker's."""
    if error.code() == grpc.StatusCode.CANCELLED:
        return Unavailable("a worker was stopped while it served this; try again", retry_after=1.0)
    return from_rpc_error(error)


async def answer(call: grpc.aio.StreamUnaryCall[Any, T]) -> T:
    """The answer to an upload. Raises AioRpcError with what the worker said, also when it said so in its midst."""
    end = CallEnd(call)
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise await end.error(error) from error


async def call_with_retry(
    pool: Pool, work: Callable[[grpc.aio.Channel], Awaitable[T]], may_repeat: Callable[[], bool]
) -> T:
    """Runs `work` at a worker and, when that one is lost and `may_repeat` agrees, once more at another.

    Raises what the worker answered; when the second one fails too or there is none, what the first one did.
    """
    first: Unavailable | None = None
    tried: tuple[str, ...] = ()
    while True:
        try:
            # A second worker has to be there at once: what the first one said tells more than a timeout.
            async with pool.lease(exclude=tried, wait_seconds=None if first is None else 0) as worker:
                tried = (worker.address,)
                try:
                    return await work(worker.channel)
                except grpc.aio.AioRpcError as error:
                    raise map_rpc_error(error) from error
        except Unavailable as error:
            if first is not None:
                raise first from error
            if not tried or not may_repeat():
                raise
            log.warning("a worker was lost; another one begins again", worker=tried[0], reason=error.message)
            first = error
