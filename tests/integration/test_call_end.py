"""A refusal that arrives during a client's write keeps its meaning."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import grpc.aio

from lighttts.v1 import decode_pb2, decode_pb2_grpc
from services.common.errors import LightTtsError, Overloaded, Unavailable, from_rpc_error
from services.common.pool import open_channel
from services.common.server import ServiceServer
from services.common.settings import ServiceSettings
from services.common.workers.call_end import CallEnd


class Full(decode_pb2_grpc.DecodeServicer):
    """Refuse every stream at its first message."""

    name = "full"
    rpc_services: tuple[str, ...] = ("lighttts.v1.Decode",)

    def register(self, server: grpc.aio.Server) -> None:
        decode_pb2_grpc.add_DecodeServicer_to_server(self, server)

    async def start(self) -> None: ...

    async def drain(self) -> None: ...

    async def close(self) -> None: ...

    async def Decode(self, request_iterator: Any, context: Any) -> AsyncGenerator[decode_pb2.DecodeResponse]:
        await anext(request_iterator)
        raise Overloaded("full", retry_after=2.5)
        yield


async def refused(channel: grpc.aio.Channel) -> LightTtsError:
    """Write without pause until the call ends; return its error."""
    call = decode_pb2_grpc.DecodeStub(channel).Decode()
    end = CallEnd(call)

    async def write() -> None:
        while True:
            await call.write(decode_pb2.DecodeRequest(tokens=decode_pb2.SpeechTokens(ids=range(100))))

    writer = asyncio.create_task(write())
    try:
        await call.read()
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(await end.error(error))
    finally:
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
    raise AssertionError("the call was not refused")


async def test_a_refusal_while_writing_keeps_its_meaning() -> None:
    settings = ServiceSettings()
    server = ServiceServer(Full(), settings)
    try:
        await server.start()
        async with asyncio.timeout(400), open_channel(server.address) as channel:
            for _ in range(200):  # without CallEnd nearly every one is INTERNAL
                error = await refused(channel)
                assert isinstance(error, Overloaded), error
                assert (error.message, error.retry_after) == ("full", 2.5)
    finally:
        await server.close()


async def test_a_connection_that_breaks_while_writing_is_unavailable() -> None:
    server = ServiceServer(Full(), ServiceSettings())
    await server.start()
    async with asyncio.timeout(400), open_channel(server.address) as channel:
        await refused(channel)
        await server.close()
        assert isinstance(await refused(channel), Unavailable)
