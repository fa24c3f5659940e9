"""The decode service: its gRPC surface, and what it loads and releases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import grpc.aio
import structlog
import torch

from lighttts.v1 import decode_pb2, decode_pb2_grpc
from services.common.errors import InvalidInput, Unavailable
from services.common.modeldir import ModelDir, open_model_dir
from services.common.server import StartError
from services.common.voice import voice_identity
from services.common.voice_cache import VoiceCache
from services.decode.backends import AudioFormat, Backend, ClockedBackend, CostModel
from services.decode.chunks import ChunkPlan
from services.decode.engine import DecodeEngine
from services.decode.metrics import EngineCollector, PrometheusObserver
from services.decode.scheduler import ORDERS, EngineLimits
from services.decode.session import Session, Stage
from services.decode.settings import DecodeSettings
from services.decode.torch_backend import Precision, TorchBackend

log = structlog.get_logger(__name__)

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float8": torch.float8_e4m3fn,
}


class DecodeService(decode_pb2_grpc.DecodeServicer):
    """`lighttts.v1.Decode`: one engine, many utterances."""

    name: str = "decode"
    rpc_services: tuple[str, ...] = ("lighttts.v1.Decode",)

    def __init__(self, settings: DecodeSettings) -> None:
        self._settings = settings
        self._stage: Stage | None = None
        self._metrics: EngineCollector | None = None
        self._sessions: set[Session] = set()

    def register(self, server: grpc.aio.Server) -> None:
        decode_pb2_grpc.add_DecodeServicer_to_server(self, server)

    async def start(self) -> None:
        self._stage = await asyncio.to_thread(_load, self._settings)
        self._metrics = EngineCollector(self._stage.engine)

    async def drain(self) -> None:
        for session in self._sessions:
            session.hand_over()

    async def close(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
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
        admission=_admission(settings, backend),
    )
    return Stage(
        engine=DecodeEngine(backend, limits, ORDERS[settings.decode_policy], PrometheusObserver()),
        voices=VoiceCache(settings.voice_cache_count, settings.voice_cache_bytes),
        model_id=voice_identity(model),
        plan=ChunkPlan(model.flow.chunk_tokens, model.flow.chunk_tokens),
        sample_rate=model.sample_rate,
        settings=settings,
    )


def _backend(settings: DecodeSettings, model: ModelDir) -> Backend:
    if settings.decode_backend == "torch":
        return _torch_backend(settings, model)
    if settings.decode_cost_file is None:
        raise StartError("the clocked backend needs a cost file; set LIGHTTTS_DECODE_COST_FILE")
    try:
        costs = CostModel.read(settings.decode_cost_file)
    except ValueError as error:
        raise StartError(str(error)) from error
    return ClockedBackend(costs, AudioFormat.of(model), recompute=settings.decode_clocked_recompute)


def _torch_backend(settings: DecodeSettings, model: ModelDir) -> TorchBackend:
    """On the device asked for; on the CPU, loudly, when a GPU is absent or cannot be initialised."""
    compute = _DTYPES[settings.decode_precision]
    state = compute if settings.decode_state_precision == "auto" else _DTYPES[settings.decode_state_precision]
    budget = settings.decode_state_bytes or None
    if settings.device != "cpu":
        try:
            torch.zeros(1, device=settings.device)
            return TorchBackend(model, settings.device, Precision(compute, state), budget)
        except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
            log.error(
                "cannot use this device; DECODING ON THE CPU INSTEAD, which is far slower",
                device=settings.device,
                reason=str(error).splitlines()[0],
            )
    return TorchBackend(model, "cpu", Precision(compute, state), budget)


def _admission(settings: DecodeSettings, backend: Backend) -> bool:
    if settings.decode_admission != "auto":
        return settings.decode_admission == "on"
    return not isinstance(backend, TorchBackend) or backend.device.type != "cpu"
