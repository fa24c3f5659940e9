"""Watch a worker's health by the standard gRPC health protocol, across lost connections."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from typing import NamedTuple

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

_RETRY_MIN_SECONDS = 0.1
_RETRY_MAX_SECONDS = 2.0


class Health(NamedTuple):
    """A worker's health at one moment."""

    reachable: bool
    serving: bool
    detail: str
    """Why it is not serving, for the log; empty while it is."""


async def watch_health(channel: grpc.aio.Channel, service: str) -> AsyncGenerator[Health, None]:
    """Yield the health of `service` behind `channel` at every change, without end; cancel it to stop.

    A lost connection is reported at once, a restored one as soon as the channel has reconnected.
    """
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=service)
    delay = _RETRY_MIN_SECONDS
    lost = False
    while True:
        # The first attempt fails fast, to report the reason; later ones wait until the channel has reconnected.
        call = stub.Watch(request, wait_for_ready=lost)  # type: ignore[attr-defined]  # the type stubs know Check only
        try:
            async for response in call:
                delay, lost = _RETRY_MIN_SECONDS, False
                status = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
                serving = response.status == health_pb2.HealthCheckResponse.SERVING
                yield Health(reachable=True, serving=serving, detail="" if serving else f"{service} is {status}")
            detail = "the worker ended the health watch"
        except grpc.aio.AioRpcError as error:
            detail = f"{error.code().name}: {error.details()}"
        finally:
            call.cancel()
        if not lost:
            yield Health(reachable=False, serving=False, detail=detail)
        lost = True
        await asyncio.sleep(delay * random.uniform(0.8, 1.2))
        delay = min(2 * delay, _RETRY_MAX_SECONDS)
