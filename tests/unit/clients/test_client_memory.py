"""grpcio frees the memory of a step of a call, such as one read, in the coroutine that waits for it, unless that is
cancelled (grpc/grpc issue 43360). A client runs for weeks, so none of its coroutines may be."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import AsyncIterator
from importlib import import_module
from typing import Any

import grpc.aio
import pytest

from lighttts.v1 import audio_pb2, tts_pb2, tts_pb2_grpc
from lighttts_client import AsyncClient

CHUNK = audio_pb2.AudioChunk(pcm=bytes(100))
cygrpc: Any = import_module("grpc._cython.cygrpc")


class Gateway(tts_pb2_grpc.TextToSpeechServicer):
    """Sends one chunk of audio, and nothing more."""

    async def Synthesize(self, request: Any, context: Any) -> AsyncIterator[tts_pb2.SynthesizeResponse]:
        yield tts_pb2.SynthesizeResponse(audio=CHUNK)
        await asyncio.Event().wait()

    async def StreamingSynthesize(
        self, request_iterator: Any, context: Any
    ) -> AsyncIterator[tts_pb2.StreamingSynthesizeResponse]:
        yield tts_pb2.StreamingSynthesizeResponse(audio=CHUNK)
        await asyncio.Event().wait()


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the steps of calls of this process whose memory grpcio has kept."""
    counts: Counter[str] = Counter()
    real = inspect.unwrap(cygrpc.execute_batch)  # a server in this process may have replaced it

    async def execute_batch(call: Any, operations: Any, loop: Any) -> None:
        try:
            await real(call, operations, loop)
        except asyncio.CancelledError:
            counts["kept"] += any("Receive" in type(operation).__name__ for operation in operations)
            raise

    monkeypatch.setattr(cygrpc, "execute_batch", execute_batch)
    return counts


@pytest.mark.parametrize("talks", [False, True], ids=["speech", "conversation"])
async def test_a_listener_who_is_cancelled_leaves_no_message_in_memory(steps: Counter[str], talks: bool) -> None:
    server = grpc.aio.server()
    tts_pb2_grpc.add_TextToSpeechServicer_to_server(Gateway(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with AsyncClient(f"127.0.0.1:{port}") as client:
        heard = asyncio.Event()

        async def listen() -> None:
            async for _ in client.conversation() if talks else client.speak("Hello."):
                heard.set()

        listening = asyncio.create_task(listen())
        await heard.wait()
        await asyncio.sleep(0)  # until it waits for the next message
        listening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await listening
        kept = steps["kept"]  # of the client: the server's own calls end later
    await server.stop(None)
    assert kept == 0
