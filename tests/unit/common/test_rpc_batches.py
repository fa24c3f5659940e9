"""What grpcio holds for the batches of a call: everything is released, however the call ends."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections import Counter
from collections.abc import AsyncIterator
from importlib import import_module
from typing import Any

import grpc
import grpc.aio
import pytest

from services.common.rpc_batches import release_batches
from tests.support.fake_stages import until

cygrpc: Any = import_module("grpc._cython.cygrpc")
MESSAGE = b"x" * 10_000
SILENT = b"silent"


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count batches of this process that began and that grpcio released."""
    counts: Counter[str] = Counter()
    real = inspect.unwrap(cygrpc.execute_batch)  # an earlier test of this process may have called release_batches

    async def execute_batch(grpc_call_wrapper: Any, operations: Any, loop: Any) -> None:
        counts["begun"] += 1
        try:
            await real(grpc_call_wrapper, operations, loop)
        except cygrpc.ExecuteBatchError:
            counts["failed"] += 1
            raise
        counts["released"] += 1

    monkeypatch.setattr(cygrpc, "execute_batch", execute_batch)
    release_batches()
    release_batches()  # a second call changes nothing
    return counts


async def answer(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    """Send messages without pause, or none, until the client leaves."""
    async for request in requests:
        while request != SILENT:
            yield MESSAGE


@contextlib.asynccontextmanager
async def calls() -> AsyncIterator[Any]:
    server = grpc.aio.server()
    handlers: dict[str, Any] = {"Stream": grpc.stream_stream_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel.stream_stream("/test/Stream")
    await server.stop(0)


async def read(call: Any, request: bytes, arrived: asyncio.Event) -> None:
    try:
        await call.write(request)
        arrived.set()
        async for _ in call:
            pass
    finally:
        call.cancel()


async def leave(stream: Any, request: bytes) -> None:
    """Cancel the task that reads."""
    arrived = asyncio.Event()
    reading = asyncio.create_task(read(stream(), request, arrived))
    await arrived.wait()
    for _ in range(5):
        await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_batches_of_cancelled_readers_and_writers_are_released(batches: Counter[str]) -> None:
    async with calls() as stream:
        for request in (b"speak", SILENT) * 10:
            await leave(stream, request)
    await until(lambda: batches["released"] == batches["begun"])
    assert batches["released"] > 40
    assert not batches["failed"], "a failed batch must be released like another one"


async def test_whoever_waits_gets_messages_and_errors_as_before(batches: Counter[str]) -> None:
    async with calls() as stream:
        call = stream()
        await call.write(b"speak")
        assert [await call.read() for _ in range(3)] == [MESSAGE] * 3
        call.cancel()
        assert await call.code() is grpc.StatusCode.CANCELLED
        ended = stream()
        await ended.done_writing()
        assert await ended.read() is grpc.aio.EOF
        with pytest.raises(asyncio.InvalidStateError):
            await ended.write(b"late")
    assert batches["begun"] > 0
    async with grpc.aio.insecure_channel("127.0.0.1:1") as unreachable:
        unary: Any = unreachable.unary_unary("/test/Stream")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await unary(b"")
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_grpcio_that_executes_batches_in_another_way_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def execute_batch(call: Any, operations: Any) -> None:
        """Take no loop."""

    monkeypatch.setattr(cygrpc, "execute_batch", execute_batch)
    release_batches()
    assert cygrpc.execute_batch is execute_batch
    monkeypatch.delattr(cygrpc, "execute_batch")
    release_batches()
