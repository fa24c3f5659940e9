"""The decode service: its gRPC surface, and what it loads and releases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

import grpc.aio
import torch
from prometheus_client import Gauge

from lighttts.v1 import decode_pb2, decode_pb2_grpc
from services.common.errors import InvalidInput, Unavailable
from services.common.modeldir import ModelDir, open_model_dir
from services.common.server import StartError
from services.common.voice import voice_identity
from services.common.voice_cache import VoiceCache
from services.decode.backends import AudioFormat, Backend, ClockedBackend, CostModel
from services.decode.chunks import ChunkPlan
from services.decode.engine import DecodeEngine
from services.decode.scheduler import EngineLimits
from services.decode.session import Session, Stage
from services.decode.settings import DecodeSettings
from services.decode.torch_backend import TorchBackend

STREAMS = Gauge("lighttts_decode_streams", "Utterances open.")
QUEUED = Gauge("lighttts_decode_streams_queued", "Utterances that wait for their first audio with tokens at hand.")
READY = Gauge("lighttts_decode_hops_ready", "Hops that could have run at the engine's latest turn.")
BATCH = Gauge("lighttts_decode_batch_size", "Hops in the latest batch.")
STATE_BYTES = Gauge("lighttts_decode_state_bytes", "Memory that streams' states hold.")
BUSY = Gauge("lighttts_decode_busy_seconds", "Seconds spent in batches since the start.")
SAMPLES = Gauge("lighttts_decode_samples", "Audio samples made since the start.")
STEPS = Gauge("lighttts_decode_engine_steps", "Steps the engine has made; a live engine's number grows.")


class DecodeService(decode_pb2_grpc.DecodeServicer):
    """`lighttts.v1.Decode`: one engine, many utterances."""

    name: str = "decode"
    rpc_services: tuple[str, ...] = ("lighttts.v1.Decode",)

    def __init__(self, settings: DecodeSettings) -> None:
        self._settings = settings
        self._stage: Stage | None = None
        self._sessions: set[Session] = set()

    def register(self, server: grpc.aio.Server) -> None:
        decode_pb2_grpc.add_DecodeServicer_to_server(self, server)

    async def start(self) -> None:
        self._stage = await asyncio.to_thread(_load, self._settings)
        _export(self._stage.engine)

    async def drain(self) -> None:
        for session in self._sessions:
            session.hand_over()

    async def close(self) -> None:
        if self._stage is not None:
            await asyncio.to_thread(self._stage.engine.close)

    async def Decode(
        self,
        request_iterator: AsyncIterator[decode_pb2.DecodeRequest],
        context: grpc.aio.ServicerContext[decode_pb2.DecodeRequest, decode_pb2.DecodeResponse],
    ) -> AsyncGenerator[decode_pb2.DecodeResponse]:
        if self._stage is None:
            raise Unavailable("loading the model; try again shortly", retry_after=1.0)
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("request") != "start":
            raise InvalidInput("the first message must be start", field="start")
        session = Session(self._stage, first.start)
        self._sessions.add(session)
        try:
            async with aclosing(session.run(request_iterator)) as responses:
                async for response in responses:
                    yield response
        finally:
            self._sessions.discard(session)


def _load(settings: DecodeSettings) -> Stage:
    torch.set_num_threads(settings.torch_threads)
    model = open_model_dir(settings.model_dir)
    backend = _backend(settings, model)
    backend.warm_up()
    limits = EngineLimits(
        max_streams=settings.decode_max_streams,
        max_queue=settings.decode_max_queue,
        max_batch=settings.decode_max_batch_size,
        first_audio_s=settings.first_audio_target_seconds,
    )
    return Stage(
        engine=DecodeEngine(backend, limits),
        voices=VoiceCache(settings.voice_cache_count, settings.voice_cache_bytes),
        model_id=voice_identity(model),
        plan=ChunkPlan(model.flow.chunk_tokens, model.flow.chunk_tokens),
        sample_rate=model.sample_rate,
        settings=settings,
    )


def _backend(settings: DecodeSettings, model: ModelDir) -> Backend:
    if settings.decode_backend == "torch":
        return TorchBackend(model, settings.device)
    if settings.decode_cost_file is None:
        raise StartError("the clocked backend needs a cost file; set LIGHTTTS_DECODE_COST_FILE")
    try:
        return ClockedBackend(CostModel.read(settings.decode_cost_file), AudioFormat.of(model))
    except ValueError as error:
        raise StartError(str(error)) from error


def _export(engine: DecodeEngine) -> None:
    """Lets Prometheus read the engine's own counts at scrape time."""

    def read(field: str) -> Callable[[], float]:
        return lambda: float(getattr(engine.stats(), field))

    for gauge, field in (
        (STREAMS, "streams"),
        (QUEUED, "queued"),
        (READY, "ready"),
        (BATCH, "batch_size"),
        (STATE_BYTES, "state_bytes"),
        (BUSY, "busy_s"),
        (SAMPLES, "samples"),
    ):
        gauge.set_function(read(field))
    STEPS.set_function(lambda: float(engine.steps))
