"""The silence of a worker's stream under virtual time: who is given up, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import pytest

from cli.simulator import virtual_time
from lighttts.v1 import decode_pb2
from services.common.workers.failover import LossReason, MovePolicy, WorkerLost
from services.common.workers.worker_call import ProgressWatch, conversation

SILENCE = 1.0
"""Seconds after which a worker that sends nothing is given up."""
POLICY = MovePolicy(SILENCE, 10.0, 3, 10.0, 10.0)


class Stream:
    """The client's side of a call whose messages arrive at given times, in seconds from its start."""

    def __init__(self, *times: float) -> None:
        self._times = times
        self.cancelled = False

    async def __aiter__(self) -> AsyncIterator[decode_pb2.DecodeResponse]:
        began = asyncio.get_running_loop().time()
        for at in self._times:
            await asyncio.sleep(began + at - asyncio.get_running_loop().time())
            yield decode_pb2.DecodeResponse(started=decode_pb2.DecodeStarted(worker=f"{at:g}"))

    async def write(self, request: object) -> None:
        """Send nothing."""

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Never end."""

    def cancel(self) -> bool:
        self.cancelled = True
        return True


async def no_requests() -> AsyncGenerator[decode_pb2.DecodeRequest]:
    nothing: tuple[decode_pb2.DecodeRequest, ...] = ()
    for request in nothing:
        yield request


def read(stream: Stream, handling: float = 0.0, *, gives_up: bool = True) -> tuple[list[str], float, WorkerLost | None]:
    """Read a stream; each message takes `handling` seconds. Return the messages, the time of the end, and the loss."""

    async def main(loop: asyncio.AbstractEventLoop) -> tuple[list[str], float, WorkerLost | None]:
        call: Any = stream
        watch = ProgressWatch(POLICY, lambda proven: gives_up, loop.time, process_clock=loop.time)
        received: list[str] = []
        loss = None
        try:
            async with conversation(call, no_requests(), watch) as responses:
                async for response in responses:
                    received.append(response.started.worker)
                    await asyncio.sleep(handling)
        except WorkerLost as error:
            loss = error
        return received, round(loop.time(), 3), loss

    return virtual_time.run(main)


def test_each_message_begins_the_silence_again() -> None:
    received, ended, loss = read(Stream(0.7, 1.4, 2.1, 2.8))
    assert received == ["0.7", "1.4", "2.1", "2.8"]
    assert (ended, loss) == (2.8, None)


@pytest.mark.parametrize("before", [(), (0.4,), (0.4, 0.9, 1.3)])
def test_a_worker_is_given_up_after_the_silence(before: tuple[float, ...]) -> None:
    stream = Stream(*before, 30.0)
    received, ended, loss = read(stream)
    assert len(received) == len(before)
    assert loss is not None
    assert loss.reason is LossReason.SILENT
    assert ended == pytest.approx((before or (0.0,))[-1] + SILENCE)
    assert stream.cancelled


def test_time_that_the_reader_takes_is_not_silence_of_the_worker() -> None:
    received, _, loss = read(Stream(0.2, 0.3, 0.4), handling=2.5 * SILENCE)
    assert received == ["0.2", "0.3", "0.4"]
    assert loss is None


def test_a_worker_that_may_not_be_given_up_is_waited_for() -> None:
    received, ended, loss = read(Stream(0.2, 7.0), gives_up=False)
    assert received == ["0.2", "7"]
    assert (ended, loss) == (7.0, None)


def test_the_reader_s_own_cancellation_is_none_of_the_worker() -> None:
    async def main(loop: asyncio.AbstractEventLoop) -> bool:
        call: Any = Stream(30.0)

        async def reading() -> None:
            async with conversation(call, no_requests(), ProgressWatch(POLICY, clock=loop.time)) as responses:
                await anext(responses)

        task = asyncio.create_task(reading())
        await asyncio.sleep(SILENCE / 2)
        task.cancel()
        await asyncio.wait({task})
        return task.cancelled()

    assert virtual_time.run(main)
