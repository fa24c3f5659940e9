"""A stream to a worker: all its messages are read and its end is classified, whatever is being written meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from lighttts.v1 import audio_pb2, decode_pb2, decode_pb2_grpc
from services.common.errors import Internal, InvalidInput, Overloaded, Unavailable
from services.common.pool import open_channel
from services.common.server import ServiceServer
from services.common.settings import ServiceSettings
from services.common.workers.failover import LossReason, MovePolicy, WorkerLost
from services.common.workers.worker_call import ProgressWatch, conversation

AUDIO = 5
Request = decode_pb2.DecodeRequest
Response = decode_pb2.DecodeResponse


class Worker(decode_pb2_grpc.DecodeServicer):
    """Send AUDIO messages after the first request, then end the call by `end`."""

    name = "decode"
    rpc_services: tuple[str, ...] = ("lighttts.v1.Decode",)

    def __init__(self, end: Callable[[Any], Any]) -> None:
        self._end = end
        self.ended = asyncio.Event()

    def register(self, server: grpc.aio.Server) -> None:
        decode_pb2_grpc.add_DecodeServicer_to_server(self, server)

    async def start(self) -> None: ...
    async def drain(self) -> None: ...
    async def close(self) -> None: ...

    async def Decode(self, request_iterator: Any, context: Any) -> AsyncGenerator[Response]:
        await anext(request_iterator)
        for sequence in range(AUDIO):
            chunk = audio_pb2.AudioChunk(sequence=sequence)
            yield Response(audio=decode_pb2.DecodedAudio(audio=chunk))
        self.ended.set()
        await self._end(context)


async def finish(context: Any) -> None: ...


def refuse(error: Exception) -> Callable[[Any], Any]:
    async def end(context: Any) -> None:
        raise error

    return end


def abort(code: grpc.StatusCode) -> Callable[[Any], Any]:
    """End as gRPC itself does when a connection breaks: with a status without details."""
    return lambda context: context.abort(code, "broken")


@asynccontextmanager
async def served(end: Callable[[Any], Any], **settings: Any) -> AsyncIterator[tuple[Worker, grpc.aio.Channel]]:
    worker = Worker(end)
    server = ServiceServer(worker, ServiceSettings(drain_notice_seconds=0, **settings))
    try:
        await server.start()
        async with asyncio.timeout(400), open_channel(server.address) as channel:
            yield worker, channel
    finally:
        await server.close()


async def writing(worker: Worker) -> AsyncGenerator[Request]:
    """Write without end, also after the worker has ended the call."""
    while True:
        yield Request(tokens=decode_pb2.SpeechTokens(ids=range(100)))
        if worker.ended.is_set():
            await asyncio.sleep(0.001)


async def read_all(channel: grpc.aio.Channel, requests: AsyncGenerator[Request], received: list[int]) -> None:
    """Read as slowly as a listener, so that the call ends while messages are unread."""
    watch = ProgressWatch(MovePolicy(silence_seconds=10))
    call = decode_pb2_grpc.DecodeStub(channel).Decode()
    async with conversation(call, requests, watch) as responses:
        async for response in responses:
            received.append(response.audio.audio.sequence)
            await asyncio.sleep(0.01)


async def test_all_messages_before_the_end_are_read_while_we_still_write() -> None:
    async with served(finish) as (worker, channel):
        for _ in range(10):
            received: list[int] = []
            await read_all(channel, writing(worker), received)
            assert received == list(range(AUDIO))


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (refuse(Overloaded("no room", retry_after=2.0)), (LossReason.FULL, "no room")),
        (refuse(Unavailable("draining")), (LossReason.REFUSED, "draining")),
        (abort(grpc.StatusCode.UNAVAILABLE), (LossReason.DIED, "broken")),
        (abort(grpc.StatusCode.INTERNAL), (LossReason.DIED, "broken")),
        (abort(grpc.StatusCode.UNKNOWN), (LossReason.DIED, "broken")),
        (abort(grpc.StatusCode.CANCELLED), (LossReason.DIED, "broken")),
    ],
)
async def test_a_worker_that_cannot_continue_is_lost_and_not_a_defect(
    end: Callable[[Any], Any], expected: tuple[LossReason, str]
) -> None:
    async with served(end) as (worker, channel):
        received: list[int] = []
        with pytest.raises(WorkerLost) as loss:
            await read_all(channel, writing(worker), received)
        assert (loss.value.reason, loss.value.detail) == expected
        assert received == list(range(AUDIO))


async def test_an_error_for_the_client_is_passed_on() -> None:
    async with served(refuse(InvalidInput("speak slower", field="speed"))) as (worker, channel):
        with pytest.raises(InvalidInput, match="speak slower"):
            await read_all(channel, writing(worker), [])


async def test_a_message_that_is_too_large_does_not_make_a_worker_full() -> None:
    async def large() -> AsyncGenerator[Request]:
        yield Request(tokens=decode_pb2.SpeechTokens(ids=range(10_000)))
        await asyncio.Event().wait()

    async with served(finish, max_message_bytes=1000) as (_, channel):
        with pytest.raises(Internal, match="message larger than max"):
            await read_all(channel, large(), [])


async def test_a_worker_that_vanishes_is_lost() -> None:
    async with served(lambda context: asyncio.Event().wait()) as (worker, channel):

        async def quiet() -> AsyncGenerator[Request]:
            yield Request()
            await asyncio.Event().wait()

        reading = asyncio.create_task(read_all(channel, quiet(), []))
        await worker.ended.wait()
        await channel.close()
        with pytest.raises(WorkerLost) as loss:
            await reading
        assert loss.value.reason is LossReason.DIED


async def test_a_defect_in_the_requests_is_raised() -> None:
    async def broken() -> AsyncGenerator[Request]:
        yield Request()
        raise ZeroDivisionError

    async with served(lambda context: asyncio.Event().wait()) as (_, channel):
        with pytest.raises(ZeroDivisionError):
            await read_all(channel, broken(), [])


async def silent() -> AsyncGenerator[Request]:
    yield Request()
    await asyncio.Event().wait()


async def read_silent(channel: grpc.aio.Channel, watch: ProgressWatch, received: list[int]) -> None:
    async with conversation(decode_pb2_grpc.DecodeStub(channel).Decode(), silent(), watch) as responses:
        async for response in responses:
            received.append(response.audio.audio.sequence)


async def test_a_silent_worker_is_lost_and_its_reader_goes_on() -> None:
    async with served(lambda context: asyncio.Event().wait()) as (_, channel):

        async def read() -> WorkerLost | None:
            try:
                await read_silent(channel, ProgressWatch(MovePolicy(silence_seconds=0.05, frozen_seconds=0)), [])
            except WorkerLost as loss:
                await asyncio.sleep(0)  # not cancelled: it may wait again, for the next worker
                return loss
            return None

        task = asyncio.create_task(read())
        loss = await task
        assert loss is not None
        assert loss.reason is LossReason.SILENT
        assert not task.cancelling()


async def test_a_worker_that_may_not_be_given_up_is_waited_for() -> None:
    refused: list[bool] = []
    often, held = asyncio.Event(), asyncio.Event()

    def may_give_up(proven: bool) -> bool:
        refused.append(proven)
        if len(refused) == 3:
            often.set()
        return False

    async with served(lambda context: held.wait()) as (_, channel):
        received: list[int] = []
        watch = ProgressWatch(MovePolicy(silence_seconds=0.01, frozen_seconds=0), may_give_up)
        task = asyncio.create_task(read_silent(channel, watch, received))
        await often.wait()
        assert not task.done()
        held.set()
        await task
        assert received == list(range(AUDIO))


async def test_a_cancelled_reader_is_cancelled_and_loses_no_worker() -> None:
    async with served(lambda context: asyncio.Event().wait()) as (worker, channel):
        task = asyncio.create_task(read_silent(channel, ProgressWatch(MovePolicy(silence_seconds=100)), []))
        await worker.ended.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_message_needs_no_task_of_its_own() -> None:
    made: list[Any] = []

    def make(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(work)
        return asyncio.Task(work, loop=loop, **options)

    async with served(lambda context: asyncio.Event().wait()) as (_, channel):
        watch = ProgressWatch(MovePolicy(silence_seconds=100))
        async with conversation(decode_pb2_grpc.DecodeStub(channel).Decode(), silent(), watch) as responses:
            await anext(responses)
            asyncio.get_running_loop().set_task_factory(make)
            for _ in range(1, AUDIO):
                await anext(responses)
            asyncio.get_running_loop().set_task_factory(None)
    assert not made
