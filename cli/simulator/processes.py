"""The simulated processes: llm and decode workers with the engines, the calls and the pools of the real services."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from cli.simulator.network import Serve
from cli.simulator.process import Group, Process, World
from cli.simulator.virtual_time import EngineTime
from services.common.checkpoint.chunk_plan import ChunkPlan
from services.common.errors import Internal, Unavailable
from services.common.voices.cache import VoiceCache
from services.common.workers.budget import FailoverBudget
from services.decode.decode_call import DecodeCall, DecodeServiceContext
from services.decode.engine.backends import SimulatedBackend as DecodeBackend
from services.decode.engine.engine import DecodeEngine
from services.decode.engine.hops import HopPolicy
from services.decode.engine.scheduler import ORDERS
from services.decode.loading import engine_limits
from services.llm.engine.backends import SimulatedBackend as LlmBackend
from services.llm.engine.engine import LlmEngine
from services.llm.engine.scheduler import earliest_deadline, fifo
from services.llm.loading import engine_limits as llm_limits
from services.llm.stream.generate_call import GenerateCall, LlmServiceContext

MODEL_ID = "simulated"
STYLE = "default"


class DecodeProcess(Process):
    """A decode worker."""

    def __init__(self, world: World, address: str) -> None:
        super().__init__(world, address)
        scenario, engine_time = world.scenario, EngineTime(world.loop, self.execution.context)
        settings = scenario.decode_settings.model_copy(update={"worker_name": address})
        backend = DecodeBackend(
            scenario.decode_costs,
            world.audio,
            engine_time.sleep,
            recompute=settings.decode_clocked_recompute,
            beats=1,
            tones=scenario.tones,
        )
        self.engine = DecodeEngine(
            backend,
            engine_limits(settings, backend),
            ORDERS[settings.decode_policy],
            clock=world.loop.time,
            thread=engine_time.thread,
        )
        flow = world.model.flow
        self._context = DecodeServiceContext(
            engine=self.engine,
            voices=_voices(world),
            model_id=MODEL_ID,
            flow=flow,
            plan=ChunkPlan(flow.chunk_tokens, flow.chunk_tokens),
            sample_rate=world.audio.sample_rate,
            settings=settings,
            engine_clock=world.loop.time,
            hops=HopPolicy(first_frames=scenario.first_frames, sizes=scenario.hop_tokens),
        )
        self._decoding: dict[DecodeCall, None] = {}

    async def warm_up(self) -> None:
        """Measure the backend, as a worker does before it is ready."""
        if self.engine.limits.admission:
            await asyncio.wrap_future(self.engine.measure())

    def method(self, path: str) -> Serve | None:
        return self._decode if path == "/lighttts.v1.Decode/Decode" else None

    async def _decode(self, requests: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
        if self.draining:
            raise Unavailable("this process is draining; another one serves", retry_after=1.0)
        first = await anext(requests)
        call = DecodeCall(self._context, first.start)
        self._decoding[call] = None
        try:
            async with aclosing(call.run(requests)) as responses:
                async for response in responses:
                    yield response
        finally:
            self._decoding.pop(call, None)

    def hand_over(self) -> None:
        for call in self._decoding if self.world.scenario.on_loss == "resume" else ():
            call.hand_over()

    def stop_engine(self) -> None:
        self.engine.close()


class LlmProcess(Process):
    """An llm worker, with its pool of decode workers."""

    def __init__(self, world: World, address: str, decode: Group) -> None:
        super().__init__(world, address)
        scenario, engine_time = world.scenario, EngineTime(world.loop, self.execution.context)
        settings = scenario.llm_settings.model_copy(update={"worker_name": address})
        self.engine = LlmEngine(
            LlmBackend(world.model.llm, scenario.llm_costs, engine_time.sleep),
            world.model,
            llm_limits(settings),
            earliest_deadline if settings.llm_order == "deadline" else fifo,
            clock=world.loop.time,
            thread=engine_time.thread,
        )
        self.pool = world.pool(decode, "lighttts.v1.Decode", f"decode of {address}")
        self._context = LlmServiceContext(
            engine=self.engine,
            pool=self.pool,
            voices=_voices(world),
            model=world.model,
            model_id=MODEL_ID,
            styles=(STYLE,),
            origins={STYLE: bytes(17)},
            end_of_prompt=None,
            settings=settings,
            failover_budget=FailoverBudget(world.loop.time, world.chance),
            clock=world.loop.time,
            engine_clock=world.loop.time,
        )

    async def warm_up(self) -> None:
        await self.pool.start()

    def method(self, path: str) -> Serve | None:
        return self._generate if path == "/lighttts.v1.Llm/Generate" else None

    async def _generate(self, requests: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
        first = await anext(requests)
        call, began = GenerateCall(self._context, first.start), False
        try:
            async with aclosing(call.run(requests)) as responses:
                async for response in responses:
                    began = began or response.HasField("started")
                    yield response
        except Unavailable as error:
            if began and self.world.scenario.on_loss != "resume":
                raise Internal(error.message, repeated=True) from error  # so that the gateway does not resume it either
            raise

    def hand_over(self) -> None:
        """Do nothing: running utterances finish within the grace period."""

    def stop_engine(self) -> None:
        self.engine.close()


def _voices(world: World) -> VoiceCache:
    voices = VoiceCache(1, 2**30)
    voices.hold([world.voice])
    return voices
