"""Watch a worker's health by the standard gRPC health protocol, across lost connections and frozen workers.

The health watch reports changes; a frozen worker sends none, and its connection stays open. So the worker must also
answer a health check every half second while it is watched.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from typing import Any, NamedTuple

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

CHECK_INTERVAL_SECONDS = 0.5
CHECK_TIMEOUT_SECONDS = 1.5
"""A worker that has not answered a check within this time is frozen or its event loop is blocked."""
_RETRY_MIN_SECONDS = 0.1
_RETRY_MAX_SECONDS = 2.0
_ANSWERED = (grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED)


class Health(NamedTuple):
    """A worker's health at one moment."""

    reachable: bool
    serving: bool
    detail: str
    """Why it is not serving, for the log; empty while it is."""
    known: bool = True
    """False if the worker answers and does not have the service that is watched."""


Watch = Callable[[grpc.aio.Channel, str], AsyncGenerator[Health, None]]
"""Yields the health of a service behind a channel at every change, without end; see `watch_health`."""


async def watch_health(channel: grpc.aio.Channel, service: str) -> AsyncGenerator[Health, None]:
    """Yield the health of `service` behind `channel` at every change, without end; cancel it to stop.

    A lost connection is reported at once, a restored one as soon as the channel has reconnected, a frozen worker after
    at most CHECK_INTERVAL_SECONDS + CHECK_TIMEOUT_SECONDS.
    """
    stub: Any = health_pb2_grpc.HealthStub(channel)  # its type stubs omit Watch
    request = health_pb2.HealthCheckRequest(service=service)
    delay = _RETRY_MIN_SECONDS
    lost = False
    while True:
        # The first attempt fails fast, to report the reason; later ones wait until the channel has reconnected.
        call = stub.Watch(request, wait_for_ready=lost)
        reading = asyncio.ensure_future(call.read())
        answering: Health | None = None
        """The latest health that the worker reported; None before the first report."""
        frozen = False
        try:
            while True:
                await asyncio.wait({reading}, timeout=None if answering is None else CHECK_INTERVAL_SECONDS)
                if reading.done():
                    response = reading.result()
                    if response is grpc.aio.EOF:
                        detail = "the worker ended the health watch"
                        break
                    reading = asyncio.ensure_future(call.read())
                    delay, lost, frozen = _RETRY_MIN_SECONDS, False, False
                    answering = _reported(service, response.status)
                    yield answering
                elif answering is not None:
                    code = await _check(channel, service)
                    if code is grpc.StatusCode.DEADLINE_EXCEEDED and not frozen:
                        frozen = True
                        yield Health(False, False, f"no answer to a health check within {CHECK_TIMEOUT_SECONDS} s")
                    elif code in _ANSWERED and frozen:
                        frozen = False
                        yield answering
        except grpc.aio.AioRpcError as error:
            detail = f"{error.code().name}: {error.details()}"
        finally:
            call.cancel()
            reading.cancel()
        if not lost and not frozen:
            yield Health(reachable=False, serving=False, detail=detail)
        lost = True
        await asyncio.sleep(delay * random.uniform(0.8, 1.2))
        delay = min(2 * delay, _RETRY_MAX_SECONDS)


def _reported(service: str, status: int) -> Health:
    serving = status == health_pb2.HealthCheckResponse.SERVING
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(status)
    known = status != health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    return Health(reachable=True, serving=serving, detail="" if serving else f"{service} is {name}", known=known)


async def check_health(channel: grpc.aio.Channel, service: str, seconds: float) -> None:
    """Send one health check. Raises grpc.aio.AioRpcError unless it is answered within `seconds`."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=seconds)


async def _check(channel: grpc.aio.Channel, service: str) -> grpc.StatusCode:
    """Return the status code of one health check."""
    try:
        await check_health(channel, service, CHECK_TIMEOUT_SECONDS)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK
