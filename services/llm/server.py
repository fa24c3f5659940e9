"""The llm service: its gRPC surface, and what it loads and releases."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

import grpc.aio
import structlog
import torch
from prometheus_client import Gauge

from lighttts.v1 import llm_pb2, llm_pb2_grpc
from services.common.discovery import discover
from services.common.errors import InvalidInput, Unavailable
from services.common.modeldir import ModelDir, open_model_dir
from services.common.pool import Pool, dialler
from services.common.server import StartError
from services.common.voice import voice_identity
from services.common.voice_cache import VoiceCache
from services.llm.backends import Backend, ClockedBackend, CostModel
from services.llm.engine import LlmEngine
from services.llm.model import load_speech_lm
from services.llm.scheduler import EngineLimits
from services.llm.sequence import FailedEvent, Request, TokensEvent
from services.llm.settings import LlmSettings
from services.llm.torch_backend import TorchBackend
from services.llm.utterance import Stage, Utterance

log = structlog.get_logger(__name__)

RUNNING = Gauge("lighttts_llm_sequences_running", "Utterances that hold K/V blocks.")
WAITING = Gauge("lighttts_llm_sequences_waiting", "Utterances queued for K/V blocks.")
KV_USED = Gauge("lighttts_llm_kv_blocks_used", "K/V blocks in use.")
KV_TOTAL = Gauge("lighttts_llm_kv_blocks", "K/V blocks there are.")
BATCH = Gauge("lighttts_llm_batch_size", "Sequences in the latest engine step.")
STEPS = Gauge("lighttts_llm_engine_turns", "Turns the engine's loop has made; a live engine's number grows.")
TOKENS = Gauge("lighttts_llm_tokens_generated", "Speech tokens generated since the start.")


class LlmService(llm_pb2_grpc.LlmServicer):
    """`lighttts.v1.Llm`: one engine, many utterances, one pool of decode workers."""

    name: str = "llm"
    rpc_services: tuple[str, ...] = ("lighttts.v1.Llm",)

    def __init__(self, settings: LlmSettings) -> None:
        self._settings = settings
        self._stage: Stage | None = None

    def register(self, server: grpc.aio.Server) -> None:
        llm_pb2_grpc.add_LlmServicer_to_server(self, server)

    async def start(self) -> None:
        settings = self._settings
        try:
            workers = discover(settings.decode_target)
        except ValueError as error:
            raise StartError(f"LIGHTTTS_DECODE_TARGET: {error}") from error
        model = open_model_dir(settings.model_dir)
        dial = dialler(settings)
        wait = settings.decode_wait_seconds
        pool = Pool(workers, "lighttts.v1.Decode", name="decode", dial=dial, wait_seconds=wait)
        engine = await asyncio.to_thread(_load_engine, settings, model)
        voices = VoiceCache(settings.voice_cache_count, settings.voice_cache_bytes)
        self._stage = Stage(engine, pool, voices, model, voice_identity(model), settings)
        _export(engine)
        await asyncio.to_thread(_warm_up, engine, model)
        await pool.start()

    async def drain(self) -> None:
        """Running utterances finish within the grace period."""

    async def close(self) -> None:
        if self._stage is not None:
            await self._stage.pool.close()
            await asyncio.to_thread(self._stage.engine.close)

    async def Generate(
        self,
        request_iterator: AsyncIterator[llm_pb2.GenerateRequest],
        context: grpc.aio.ServicerContext[llm_pb2.GenerateRequest, llm_pb2.GenerateResponse],
    ) -> AsyncGenerator[llm_pb2.GenerateResponse]:
        if self._stage is None:
            raise Unavailable("loading the model; try again shortly")
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("request") != "start":
            raise InvalidInput("the first message must be start", field="start")
        async with aclosing(Utterance(self._stage, first.start).run(request_iterator)) as responses:
            async for response in responses:
                yield response


def _load_engine(settings: LlmSettings, model: ModelDir) -> LlmEngine:
    torch.set_num_threads(settings.torch_threads)
    try:
        limits = EngineLimits(
            max_running=settings.max_running,
            max_waiting=settings.max_waiting,
            total_tokens=settings.total_tokens,
            max_request_tokens=settings.max_request_tokens,
            prefill_tokens=settings.prefill_tokens,
        )
    except ValueError as error:
        raise StartError(f"the engine's limits contradict each other: {error}") from error
    return LlmEngine(_backend(settings, model), model, limits)


def _backend(settings: LlmSettings, model: ModelDir) -> Backend:
    if settings.llm_backend == "torch":
        _check_device(settings.device)
        return TorchBackend(load_speech_lm(model, settings.device))
    if settings.llm_cost_file is None:
        raise StartError("the clocked backend needs a cost file; set LIGHTTTS_LLM_COST_FILE")
    try:
        return ClockedBackend(model.llm, CostModel.read(settings.llm_cost_file))
    except ValueError as error:
        raise StartError(str(error)) from error


def _check_device(device: str) -> None:
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        first_line = str(error).splitlines()[0]
        raise StartError(f"cannot use device {device!r} ({first_line}); set LIGHTTTS_DEVICE, cpu for one") from error


def _warm_up(engine: LlmEngine, model: ModelDir) -> None:
    """Generates a few tokens, so that SERVING means that the next utterance pays for nothing but itself.

    Raises StartError when the model cannot generate.
    """
    ended: queue.SimpleQueue[TokensEvent | FailedEvent] = queue.SimpleQueue()
    engine.submit(Request(text_ids=(0, 0), max_seconds=4 / model.token_rate), ended.put)
    while True:
        event = ended.get()
        if isinstance(event, FailedEvent):
            raise StartError(f"the model cannot generate: {event.error}")
        if event.last:
            return


def _export(engine: LlmEngine) -> None:
    """Lets Prometheus read the engine's own counts at scrape time."""

    def read(field: str) -> Callable[[], float]:
        return lambda: float(getattr(engine.stats(), field))

    for gauge, field in (
        (RUNNING, "running"),
        (WAITING, "waiting"),
        (KV_USED, "kv_blocks_used"),
        (KV_TOTAL, "kv_blocks_total"),
        (BATCH, "batch_size"),
        (TOKENS, "tokens_generated"),
    ):
        gauge.set_function(read(field))
    STEPS.set_function(lambda: float(engine.steps))
