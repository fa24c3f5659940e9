"""Calls to encode and llm workers: choice of the worker, retry, and the error that the client gets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio
import structlog

from lighttts.v1 import llm_pb2, llm_pb2_grpc
from services.common.errors import LightTtsError, Unavailable, from_rpc_error
from services.common.pool import Pool
from services.common.workers.call_end import CallEnd
from services.common.workers.failover import LossReason, WorkerLost
from services.common.workers.worker_call import lost_or_refused

log = structlog.get_logger(__name__)

T = TypeVar("T")


def map_rpc_error(error: grpc.aio.AioRpcError) -> LightTtsError:
    """Return the error to raise for a failed call.

    A broken connection gives Unavailable in plain words; gRPC's own words go to the log. CANCELLED is the worker's:
    calls that we cancel are not mapped.
    """
    lost = lost_or_refused(error)
    if isinstance(lost, WorkerLost) and lost.reason is LossReason.DIED:
        log.warning("worker lost", code=error.code().name, detail=error.details())
        return Unavailable("a worker was lost while it served this request; try again", retry_after=1.0)
    return from_rpc_error(error)


async def answer(call: grpc.aio.StreamUnaryCall[Any, T]) -> T:
    """Return the response to an upload. Raises AioRpcError with the worker's status, even if it failed mid-upload."""
    end = CallEnd(call)
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise await end.error(error) from error


async def call_with_retry(
    pool: Pool, work: Callable[[grpc.aio.Channel], Awaitable[T]], may_repeat: Callable[[], bool]
) -> T:
    """Run `work` on a worker; if that worker is lost and `may_repeat()` is true, run it once more on another one.

    Raises the worker's error. If the second worker fails too, or there is none, raises the first worker's error.
    """
    first: Unavailable | None = None
    tried: tuple[str, ...] = ()
    while True:
        try:
            # The second worker must be available at once: the first worker's error helps more than a timeout.
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
            log.warning("worker lost; retrying on another worker", worker=tried[0], reason=error.message)
            first = error


async def list_styles(llm: Pool) -> tuple[str, ...]:
    """Return the names of the llm service's styles, the default first. Not cached: the call is rare and takes 1 ms.

    Raises Unavailable if no llm worker responds.
    """

    async def request(channel: grpc.aio.Channel) -> llm_pb2.ListStylesResponse:
        return await llm_pb2_grpc.LlmStub(channel).ListStyles(llm_pb2.ListStylesRequest())

    response = await call_with_retry(llm, request, may_repeat=lambda: True)
    return tuple(response.styles)
