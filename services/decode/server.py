"""The decode service: its gRPC interface, and what it loads and releases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import grpc.aio
import torch

from lighttts.v1 import decode_pb2, decode_pb2_grpc, voice_pb2_grpc
from services.common.checkpoint.chunk_plan import ChunkPlan
from services.common.checkpoint.model_dir import open_model_dir
from services.common.checkpoint.weights_hash import weights_hash
from services.common.engine.memory import check_caches
from services.common.errors import InvalidInput, Unavailable
from services.common.start_error import StartError
from services.common.voices import deletion as voice_deletion
from services.common.voices.cache import VoiceCache
from services.common.voices.voice import voice_identity
from services.decode.decode_call import DecodeCall, DecodeServiceContext
from services.decode.engine.engine import DecodeEngine
from services.decode.engine.scheduler import ORDERS
from services.decode.loading import engine_limits, load_backend
from services.decode.marking import watermark_of
from services.decode.metrics import STREAMS_LIMIT, EngineCollector, PrometheusObserver
from services.decode.settings import DecodeSettings


class DecodeService(decode_pb2_grpc.DecodeServicer):
    """`lighttts.v1.Decode`: serves many utterances with one engine."""

    name: str = "decode"
    rpc_services: tuple[str, ...] = ("lighttts.v1.Decode", voice_deletion.NAME)

    def __init__(self, settings: DecodeSettings) -> None:
        self._settings = settings
        self._context: DecodeServiceContext | None = None
        self._metrics: EngineCollector | None = None
        self._calls: set[DecodeCall] = set()

    @property
    def alive(self) -> bool:
        """False once the engine's loop has ended: this process can then serve no utterance."""
        return self._context is None or self._context.engine.alive

    def register(self, server: grpc.aio.Server) -> None:
        decode_pb2_grpc.add_DecodeServicer_to_server(self, server)
        voice_pb2_grpc.add_VoiceCacheServicer_to_server(voice_deletion.VoiceCacheServicer(self._evict_voice), server)

    async def start(self) -> None:
        self._context = await asyncio.to_thread(_load, self._settings)
        self._metrics = EngineCollector(self._context.engine)
        STREAMS_LIMIT.set(self._context.engine.limits.max_streams)

    async def drain(self) -> None:
        for call in self._calls:
            call.hand_over()

    async def close(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
        if self._context is not None:
            await asyncio.to_thread(self._context.engine.close)

    async def _evict_voice(self, voice_hash: str) -> int:
        if self._context is not None:
            self._context.voices.evict(voice_hash)
            self._context.engine.evict_voice(voice_hash)
        return 0

    async def Decode(
        self,
        request_iterator: AsyncIterator[decode_pb2.DecodeRequest],
        context: grpc.aio.ServicerContext[decode_pb2.DecodeRequest, decode_pb2.DecodeResponse],
    ) -> AsyncGenerator[decode_pb2.DecodeResponse]:
        if self._context is None:
            raise Unavailable("loading the model; try again shortly", retry_after=1.0)
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("request") != "start":
            raise InvalidInput("the first message must be start", field="start")
        call = DecodeCall(self._context, first.start)
        self._calls.add(call)
        try:
            async with aclosing(call.run(request_iterator)) as responses:
                async for response in responses:
                    yield response
        finally:
            self._calls.discard(call)


def _load(settings: DecodeSettings) -> DecodeServiceContext:
    torch.set_num_threads(settings.torch_threads)
    check_caches({"voice_cache_bytes": settings.voice_cache_bytes})
    model = open_model_dir(settings.model_dir)
    watermark = watermark_of(settings, model.sample_rate)
    backend = load_backend(settings, model)
    engine = DecodeEngine(
        backend,
        engine_limits(settings, backend),
        ORDERS[settings.decode_policy],
        PrometheusObserver(),
        weights=weights_hash(model.weights_file("flow"), model.weights_file("hift")),
    )
    if engine.limits.admission:
        try:
            engine.measure().result()
        except Exception as error:
            engine.close()
            raise StartError(f"the model cannot decode: {error}") from error
    return DecodeServiceContext(
        engine=engine,
        voices=VoiceCache(settings.voice_cache_count, settings.voice_cache_bytes),
        model_id=voice_identity(model),
        flow=model.flow,
        plan=ChunkPlan(model.flow.chunk_tokens, model.flow.chunk_tokens),
        sample_rate=model.sample_rate,
        settings=settings,
        watermark=watermark,
    )
