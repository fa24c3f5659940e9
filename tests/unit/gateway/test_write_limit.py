"""A gRPC call ends when its client neither reads nor sends for too long, under virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from cli.simulator import virtual_time
from gateway.auth.shares import Shares
from gateway.process.calls import FirstMessage
from lighttts.v1 import tts_pb2

IDLE = 10.0
"""Seconds in which a client must read or send something."""


async def count(requests: AsyncIterator[Any], seconds: float) -> AsyncIterator[int]:
    """Answer with three numbers, `seconds` after each other, and take requests meanwhile."""

    async def take() -> None:
        async for _ in requests:
            pass

    taking = asyncio.create_task(take())
    try:
        for number in range(3):
            yield number
            await asyncio.sleep(seconds)
    finally:
        taking.cancel()
        await asyncio.wait({taking})


async def requests_at(*times: float) -> AsyncGenerator[tts_pb2.StreamingSynthesizeRequest]:
    began = asyncio.get_running_loop().time()
    for at in (0.0, *times):
        await asyncio.sleep(began + at - asyncio.get_running_loop().time())
        yield tts_pb2.StreamingSynthesizeRequest(text="a")
    await asyncio.sleep(virtual_time.NEVER)


def read(
    reading_seconds: float, *request_times: float, answering_seconds: float = 0.0
) -> tuple[list[int], float, bool]:
    """Read the answers, each in `reading_seconds`. Return them, the time of the end, and whether the call was cut."""

    async def main(loop: asyncio.AbstractEventLoop) -> tuple[list[int], float, bool]:
        unused: Any = None
        limits = FirstMessage(unused, 5.0, IDLE, Shares("bytes", 1000, 1000))

        def behaviour(requests: AsyncIterator[Any], context: object) -> AsyncIterator[int]:
            return count(requests, answering_seconds)

        handler: Any = grpc.stream_stream_rpc_method_handler(behaviour)

        async def continuation(details: object) -> Any:
            return handler

        details: Any = SimpleNamespace(method="/test.Service/Echo")
        limited: Any = await limits.intercept_service(continuation, details)
        received: list[int] = []

        async def call() -> None:
            async with aclosing(limited.stream_stream(requests_at(*request_times), None)) as answers:
                async for number in answers:
                    received.append(number)
                    await asyncio.sleep(reading_seconds)

        task = asyncio.create_task(call())
        await asyncio.wait({task})
        return received, round(loop.time(), 3), task.cancelled()

    return virtual_time.run(main)


def test_a_client_that_reads_nothing_is_cut_off_after_the_limit() -> None:
    assert read(1000.0) == ([0], IDLE, True)


@pytest.mark.parametrize("seconds", [0.0, 0.5 * IDLE, 0.99 * IDLE])
def test_a_client_that_reads_in_time_gets_everything(seconds: float) -> None:
    received, _, cut = read(seconds)
    assert (received, cut) == ([0, 1, 2], False)


def test_a_client_that_waits_for_the_next_answer_stays() -> None:
    assert read(0.0, answering_seconds=2.5 * IDLE) == ([0, 1, 2], 7.5 * IDLE, False)


def test_a_client_that_sends_while_it_does_not_read_stays() -> None:
    times = [0.8 * IDLE * number for number in range(1, 12)]
    assert read(3 * IDLE, *times)[0] == [0, 1, 2]


def test_a_client_that_stops_to_send_is_cut_off_after_the_limit() -> None:
    received, ended, cut = read(1000.0, 0.5 * IDLE)
    assert (received, cut) == ([0], True)
    assert 1.5 * IDLE <= ended <= 2 * IDLE + 0.001
