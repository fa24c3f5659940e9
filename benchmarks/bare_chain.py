"""The floor of separate services: the calls of a request until its first audio, over gRPC and without any other work.

    python -m benchmarks.bare_chain NAME PORTS

runs one of the four processes; `benchmarks.split` starts them. Messages are bytes of about the size of ours.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio

NAMES = ("gateway", "encode", "llm", "decode")
METHOD = "/bare.Chain/Call"
SHORT, IDS, AUDIO = bytes(50), bytes(200), bytes(40_000)
"""A text or an event, the ids of a sentence, and the samples of a first hop."""


class Chain:
    """The behaviour of each process, and the calls to the others."""

    def __init__(self, ports: dict[str, int]) -> None:
        self._channels: dict[str, Any] = {
            name: grpc.aio.insecure_channel(f"127.0.0.1:{port}") for name, port in ports.items()
        }
        """Their types need serializers, and these messages are bytes already."""

    async def wait_until_served(self) -> None:
        """Connect to all processes."""
        for channel in self._channels.values():
            await channel.channel_ready()

    async def first_audio(self) -> float:
        """Return the seconds from a call of the gateway until its audio."""
        began = time.perf_counter()
        call = self.request("gateway")
        while len(await call.read()) < len(AUDIO):
            pass
        seconds = time.perf_counter() - began
        call.cancel()
        return seconds

    def stream(self, name: str) -> Any:
        """Begin a call with a stream of requests."""
        return self._channels[name].stream_stream(METHOD)()

    def request(self, name: str) -> Any:
        """Begin a call with one request."""
        return self._channels[name].unary_stream(METHOD)(SHORT)

    async def gateway(self, requests: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
        async for _ in requests:
            yield SHORT
            break
        encode = self.request("encode")
        await encode.read()
        llm = self.stream("llm")
        await llm.write(IDS)
        yield await llm.read()
        llm.cancel()

    async def encode(self, requests: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
        async for _ in requests:
            yield IDS

    async def llm(self, requests: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
        async for _ in requests:
            break
        decode = self.stream("decode")
        await decode.write(IDS)
        yield await decode.read()
        decode.cancel()

    async def decode(self, requests: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
        async for _ in requests:
            yield AUDIO
            break


async def serve(name: str, ports: dict[str, int]) -> None:
    server = grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(getattr(Chain(ports), name))
    service, _, method = METHOD.lstrip("/").partition("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    server.add_insecure_port(f"127.0.0.1:{ports[name]}")
    await server.start()
    await server.wait_for_termination()


def free_ports() -> dict[str, int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in NAMES]
    ports = {name: one.getsockname()[1] for name, one in zip(NAMES, sockets, strict=True)}
    for one in sockets:
        one.close()
    return ports


@contextmanager
def processes() -> Iterator[Chain]:
    """Run the four processes, and yield the chain, whose `first_audio` calls them."""
    ports = free_ports()
    command = [sys.executable, "-m", "benchmarks.bare_chain"]
    running = [subprocess.Popen([*command, name, json.dumps(ports)]) for name in NAMES]
    try:
        yield Chain(ports)
    finally:
        for process in running:
            process.kill()
            process.wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], json.loads(sys.argv[2])))
