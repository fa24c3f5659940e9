"""The llm service: its gRPC methods, and what it loads and releases."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path

import grpc.aio
import structlog

from lighttts.v1 import llm_pb2, llm_pb2_grpc, voice_pb2_grpc
from services.common.checkpoint.model_dir import open_model_dir
from services.common.checkpoint.weights_hash import weights_hash
from services.common.discovery import Discovery, discover
from services.common.end_to_end import LLM_END_TO_END
from services.common.engine.memory import check_caches
from services.common.errors import InvalidInput, Unavailable
from services.common.pool import Pool, dialler
from services.common.start_error import StartError
from services.common.voices import deletion as voice_deletion
from services.common.voices.cache import VoiceCache
from services.common.voices.voice import voice_identity
from services.llm import metrics
from services.llm.engine.engine import LlmEngine
from services.llm.loading import load_engine, warm_up
from services.llm.settings import LlmSettings
from services.llm.stream.conversion import ConversionCall
from services.llm.stream.generate_call import GenerateCall, LlmServiceContext
from services.llm.stream.own_voices import OwnVoices
from services.llm.stream.requests import RAW_IDS_VERSION, checked_voice, end_of_prompt_id
from services.llm.styles import read_styles

log = structlog.get_logger(__name__)


class LlmService(llm_pb2_grpc.LlmServicer):
    """`lighttts.v1.Llm`: one engine for many utterances, and one pool of decode workers."""

    name: str = "llm"
    end_to_end: str = LLM_END_TO_END
    rpc_services: tuple[str, ...] = ("lighttts.v1.Llm", voice_deletion.NAME)

    def __init__(self, settings: LlmSettings, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` returns seconds; it measures the silence and the stalls of decode workers."""
        self._settings = settings
        self._clock = clock
        self._context: LlmServiceContext | None = None
        self._statistics: asyncio.Task[None] | None = None
        self._own_voices: OwnVoices | None = None

    @property
    def alive(self) -> bool:
        """False once the engine's loop has ended: this process can serve no further utterance."""
        return self._context is None or self._context.engine.alive

    def unable(self) -> str:
        """Return why no utterance can be spoken now, or an empty string if one can."""
        if self._context is None or not self._context.engine.alive:
            return "the engine does not run"
        return "" if self._context.pool.serves_end_to_end else "no decode worker is serving"

    def register(self, server: grpc.aio.Server) -> None:
        llm_pb2_grpc.add_LlmServicer_to_server(self, server)
        voice_pb2_grpc.add_VoiceCacheServicer_to_server(voice_deletion.VoiceCacheServicer(self._evict_voice), server)

    async def start(self) -> None:
        settings = self._settings
        workers = _discovery("DECODE", settings.decode_target)
        encode = _discovery("ENCODE", settings.encode_target) if settings.encode_target else None
        check_caches({"voice_cache_bytes": settings.voice_cache_bytes})
        model = open_model_dir(settings.model_dir)
        dial = dialler(settings)
        wait = settings.decode_wait_seconds
        pool = Pool(workers, "lighttts.v1.Decode", name="decode", dial=dial, wait_seconds=wait)
        styles = read_styles(model, settings.llm_weights)
        engine = await asyncio.to_thread(load_engine, settings, model, styles, metrics.count_step)
        self._context = LlmServiceContext(
            engine=engine,
            pool=pool,
            voices=VoiceCache(settings.voice_cache_count, settings.voice_cache_bytes),
            model=model,
            model_id=voice_identity(model),
            styles=tuple(styles),
            origins=await asyncio.to_thread(_origins, styles),
            end_of_prompt=end_of_prompt_id(model),
            settings=settings,
            clock=self._clock,
        )
        metrics.export(engine)
        await asyncio.to_thread(warm_up, engine, model)
        await pool.start()
        if encode is not None:
            await self._fetch_voices(encode, self._context)
        if settings.stats_interval_seconds:
            self._statistics = asyncio.create_task(_log_stats(engine, settings.stats_interval_seconds))

    async def _fetch_voices(self, encode: Discovery, service: LlmServiceContext) -> None:
        self._own_voices = OwnVoices(
            Pool(encode, "lighttts.v1.Encode", name="encode", dial=dialler(self._settings)),
            service.voices,
            lambda content: checked_voice(content, service.model_id, service.model),
        )
        await self._own_voices.start(self._settings.own_voices_seconds)

    async def drain(self) -> None:
        """Do nothing: running utterances finish within the grace period."""

    async def close(self) -> None:
        if self._statistics is not None:
            self._statistics.cancel()
            await asyncio.wait({self._statistics})
        if self._own_voices is not None:
            await self._own_voices.close()
        if self._context is not None:
            await self._context.pool.close()
            await asyncio.to_thread(self._context.engine.close)

    async def _evict_voice(self, voice_hash: str) -> int:
        """Evict here and on the decode workers, which only this service reaches."""
        service = self._ready
        service.voices.evict(voice_hash)
        return await voice_deletion.evict_on_all_workers(service.pool, voice_hash, voice_deletion.TIMEOUT_SECONDS / 2)

    @property
    def _ready(self) -> LlmServiceContext:
        if self._context is None:
            raise Unavailable("loading the model; try again shortly", retry_after=1.0)
        return self._context

    async def Generate(
        self,
        request_iterator: AsyncIterator[llm_pb2.GenerateRequest],
        context: grpc.aio.ServicerContext[llm_pb2.GenerateRequest, llm_pb2.GenerateResponse],
    ) -> AsyncGenerator[llm_pb2.GenerateResponse]:
        service = self._ready
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("request") != "start":
            raise InvalidInput("the first message must be start", field="start")
        kind = ConversionCall if first.start.speech_tokens else GenerateCall
        async with aclosing(kind(service, first.start).run(request_iterator)) as responses:
            async for response in responses:
                yield response

    async def ListStyles(
        self,
        request: llm_pb2.ListStylesRequest,
        context: grpc.aio.ServicerContext[llm_pb2.ListStylesRequest, llm_pb2.ListStylesResponse],
    ) -> llm_pb2.ListStylesResponse:
        return llm_pb2.ListStylesResponse(styles=self._ready.styles)


def _discovery(name: str, target: str) -> Discovery:
    try:
        return discover(target)
    except ValueError as error:
        raise StartError(f"LIGHTTTS_{name}_TARGET: {error}") from error


def _origins(styles: Mapping[str, Path]) -> dict[str, bytes]:
    return {name: RAW_IDS_VERSION + weights_hash(path) for name, path in styles.items()}


async def _log_stats(engine: LlmEngine, interval: float) -> None:
    """Log a line every `interval` seconds; the rate is that of the interval."""
    before = engine.stats()
    while True:
        await asyncio.sleep(interval)
        now = engine.stats()
        rate = (now.tokens_generated - before.tokens_generated) / interval
        log.info("statistics", tokens_per_second=round(rate, 1), **asdict(now))
        before = now
