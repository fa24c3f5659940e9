"""An llm worker holds the checkpoint's own voices from Ready on, and does without an encode service that is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from lighttts.v1 import encode_pb2, encode_pb2_grpc, voice_pb2, voice_pb2_grpc
from services.common.pool import open_channel
from services.common.server import ServiceServer
from services.common.settings import ServiceSettings
from tests.support.decode_worker import StartWorker
from tests.support.llm import VOICE, Llm, llm_service, make_voice

OTHER = make_voice("other")


class Encoder(encode_pb2_grpc.EncodeServicer):
    """An encode worker that has the voices `VOICE` and, if `foreign`, those of another model."""

    name = "encode"
    rpc_services: tuple[str, ...] = ("lighttts.v1.Encode",)

    def __init__(self, *, foreign: bool = False) -> None:
        self.foreign = foreign
        self.calls = 0

    def register(self, server: grpc.aio.Server) -> None:
        encode_pb2_grpc.add_EncodeServicer_to_server(self, server)

    async def start(self) -> None: ...
    async def drain(self) -> None: ...
    async def close(self) -> None: ...

    async def BundledVoices(self, request: Any, context: Any) -> AsyncIterator[encode_pb2.BundledVoicesResponse]:
        self.calls += 1
        content = voice_pb2.VoiceContent()
        content.CopyFrom(VOICE)
        if self.foreign:
            content.model = "another"
        yield encode_pb2.BundledVoicesResponse(name="one", voice=content)


@asynccontextmanager
async def encode_worker(encoder: Encoder, port: int = 0) -> AsyncIterator[str]:
    server = ServiceServer(encoder, ServiceSettings(port=port, drain_notice_seconds=0))
    try:
        await server.start()
        yield f"static:///{server.address}"
    finally:
        await server.close()


async def asks_for_voice(llm: Llm, voice: voice_pb2.VoiceContent = VOICE) -> bool:
    spoken = await llm.speak(voice=voice)
    assert spoken.done is not None
    return "need_voice" in spoken.kinds


async def test_it_holds_them_whatever_is_evicted(worker: StartWorker, tmp_path: Path) -> None:
    decode = await worker()
    async with (
        encode_worker(Encoder()) as target,
        llm_service(tmp_path, decode.address, encode_target=target, voice_cache_count=1) as llm,
    ):
        assert not await asks_for_voice(llm)
        assert await asks_for_voice(llm, OTHER)
        async with open_channel(llm.server.address) as channel:
            request = voice_pb2.ForgetVoiceRequest(voice_hash=VOICE.voice_hash)
            await voice_pb2_grpc.VoiceCacheStub(channel).ForgetVoice(request)
        assert not await asks_for_voice(llm)


async def test_without_an_encode_worker_it_starts_and_gets_them_later(worker: StartWorker, tmp_path: Path) -> None:
    decode = await worker()
    async with encode_worker(Encoder()) as target:
        port = int(target.rpartition(":")[2])
    options: dict[str, Any] = {"encode_target": target, "own_voices_seconds": 0, "voice_cache_count": 1}
    async with llm_service(tmp_path, decode.address, **options) as llm:
        assert await asks_for_voice(llm)
        encoder = Encoder()
        async with encode_worker(encoder, port):
            while not encoder.calls:  # noqa: ASYNC110 - it belongs to the worker
                await asyncio.sleep(0.01)
            while await asks_for_voice(llm) or not await asks_for_voice(llm, OTHER):
                pass
            assert not await asks_for_voice(llm)
            assert encoder.calls == 1


async def test_voices_of_another_model_are_not_taken(worker: StartWorker, tmp_path: Path) -> None:
    decode = await worker()
    encoder = Encoder(foreign=True)
    async with (
        encode_worker(encoder) as target,
        llm_service(tmp_path, decode.address, encode_target=target, own_voices_seconds=60) as llm,
    ):
        assert encoder.calls == 1
        assert await asks_for_voice(llm)
