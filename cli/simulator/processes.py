"""The simulated processes: llm and decode workers with the engines, the calls and the pools of the real services."""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, cast

import grpc.aio
import numpy as np

from cli.simulator.network import Call, Channel, Serve
from cli.simulator.scenario import Scenario
from cli.simulator.virtual_time import EngineTime, VirtualLoop
from services.common.checkpoint.chunk_plan import ChunkPlan
from services.common.checkpoint.model_dir import ModelDir, open_model_dir
from services.common.errors import Unavailable
from services.common.pool import Pool
from services.common.pool.health import Health
from services.common.pool.picker import RoundRobin
from services.common.settings import EMBEDDED_MODEL
from services.common.voices.cache import VoiceCache
from services.common.voices.voice import Voice
from services.common.workers.budget import FailoverBudget
from services.decode.decode_call import DecodeCall, DecodeServiceContext
from services.decode.engine.backends import AudioFormat
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
_SERVING = Health(reachable=True, serving=True, detail="")
_DRAINING = Health(reachable=True, serving=False, detail="it is draining")
_LOST = Health(reachable=False, serving=False, detail="the process ended")


@dataclass(frozen=True)
class World:
    """What all processes of a simulation share."""

    scenario: Scenario
    loop: VirtualLoop
    chance: random.Random

    @cached_property
    def model(self) -> ModelDir:
        """The embedded model's directory, for the arithmetic of tokens and the rules of length; no weights are read."""
        return _embedded_model()

    @cached_property
    def audio(self) -> AudioFormat:
        """The audio that workers send. One sample stands for a frame, unless samples are compared: nothing that is
        scheduled depends on their number, and copying them would be a fifth of a simulation's time."""
        whole = AudioFormat.of(self.model)
        if self.scenario.tones:
            return whole
        return replace(whole, sample_rate=whole.sample_rate // whole.frame_samples, frame_samples=1)

    @cached_property
    def voice(self) -> Voice:
        """The voice of all sessions."""
        tokens = round(self.scenario.prompt_seconds * self.model.token_rate)
        flow = self.model.flow
        return Voice(
            hash="simulated voice",
            transcript="",
            prompt_text_ids=np.zeros(round(tokens / self.scenario.llm_costs.tokens_per_text_id), np.int32),
            speech_tokens=np.zeros(tokens, np.int32),
            mel=np.zeros((flow.mel_frames_per_token * tokens, flow.output_size), np.float32),
            embedding=np.zeros(flow.speaker_dim, np.float32),
            seconds=self.scenario.prompt_seconds,
        )

    def pool(self, group: Group, service: str, name: str) -> Pool:
        """Return a pool of a group's processes; it has not been started."""
        return Pool(
            group,
            service,
            name=name,
            picker=RoundRobin(self.chance),
            dial=lambda address: cast(grpc.aio.Channel, group.processes[address].channel),
            clock=self.loop.time,
            watch=lambda channel, service: cast(_Connection, channel).process.health(),
        )


class _Connection(Channel):
    """A channel and the process at its other end."""

    def __init__(self, process: Process) -> None:
        super().__init__(process.method, process.begin)
        self.process = process


class Process(ABC):
    """One process: its calls, its health and its end."""

    def __init__(self, world: World, address: str) -> None:
        self.world, self.address = world, address
        self.channel = _Connection(self)
        self.calls: dict[Call, None] = {}
        self.alive = True
        self.draining = False
        self.idle = asyncio.Event()
        """Set while no call runs."""
        self.idle.set()
        self._health = _SERVING
        self._changed = asyncio.Event()

    def begin(self, serve: Serve) -> Call:
        """Begin a call from another process."""
        call = Call(serve, self.world.scenario.network_seconds, self._ended)
        if not self.alive:
            call.disconnect()
            return call
        self.calls[call] = None
        self.idle.clear()
        return call

    def _ended(self, call: Call) -> None:
        self.calls.pop(call, None)
        if not self.calls:
            self.idle.set()

    async def health(self) -> AsyncGenerator[Health]:
        """Yield the health as another process sees it, at every change."""
        shown: Health | None = None
        while True:
            if shown is not self._health:
                shown = self._health
                await asyncio.sleep(self.world.scenario.network_seconds)
                yield shown
            else:
                await self._changed.wait()

    def _set_health(self, health: Health) -> None:
        self._health = health
        self._changed.set()
        self._changed = asyncio.Event()

    def kill(self) -> None:
        """End the process at once, as SIGKILL does."""
        if not self.alive:
            return
        self.alive = False
        self._set_health(_LOST)
        for call in list(self.calls):
            call.disconnect()
        self.stop_engine()

    async def drain(self) -> None:
        """Take no further calls, and end when the running ones have."""
        self.draining = True
        self._set_health(_DRAINING)
        self.hand_over()
        await self.idle.wait()
        self.kill()

    @abstractmethod
    def method(self, path: str) -> Serve | None:
        """Return the method of a path; None if the process does not have it."""

    @abstractmethod
    def hand_over(self) -> None:
        """Ask the callers to continue elsewhere."""

    @abstractmethod
    def stop_engine(self) -> None:
        """End the engine."""


class DecodeProcess(Process):
    """A decode worker."""

    def __init__(self, world: World, address: str) -> None:
        super().__init__(world, address)
        scenario, engine_time = world.scenario, EngineTime(world.loop)
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
        for call in self._decoding:
            call.hand_over()

    def stop_engine(self) -> None:
        self.engine.close()


class LlmProcess(Process):
    """An llm worker, with its pool of decode workers."""

    def __init__(self, world: World, address: str, decode: Group) -> None:
        super().__init__(world, address)
        scenario, engine_time = world.scenario, EngineTime(world.loop)
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
            failover_budget=FailoverBudget(world.loop.time),
            clock=world.loop.time,
            engine_clock=world.loop.time,
        )

    async def warm_up(self) -> None:
        await self.pool.start()

    def method(self, path: str) -> Serve | None:
        return self._generate if path == "/lighttts.v1.Llm/Generate" else None

    async def _generate(self, requests: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
        first = await anext(requests)
        call = GenerateCall(self._context, first.start)
        async with aclosing(call.run(requests)) as responses:
            async for response in responses:
                yield response

    def hand_over(self) -> None:
        """Do nothing: running utterances finish within the grace period."""

    def stop_engine(self) -> None:
        self.engine.close()


class Group:
    """The processes of one service, and the discovery of their addresses."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.target = f"simulated:///{name}"
        self._numbers = 0
        self.processes: dict[str, Process] = {}
        """By address, those that ended included."""
        self._listed: dict[str, None] = {}
        self._changed = asyncio.Event()

    def next_address(self) -> str:
        """Return an address that no process had; addresses sort in the order of their processes."""
        self._numbers += 1
        return f"{self.name}-{self._numbers:05}"

    def add(self, process: Process) -> None:
        """List a process that is ready."""
        self.processes[process.address] = process
        self._listed[process.address] = None
        self._notify()

    def remove(self, address: str) -> None:
        """List a process no longer."""
        self._listed.pop(address, None)
        self._notify()

    @property
    def running(self) -> list[Process]:
        """The listed processes that are alive and do not drain."""
        return [one for address in self._listed if (one := self.processes[address]).alive and not one.draining]

    async def watch(self) -> AsyncGenerator[frozenset[str]]:
        """Yield the listed addresses at every change."""
        while True:
            changed = self._changed
            yield frozenset(self._listed)
            await changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


@cache
def _embedded_model() -> ModelDir:
    return open_model_dir(EMBEDDED_MODEL)


def _voices(world: World) -> VoiceCache:
    voices = VoiceCache(1, 2**30)
    voices.hold([world.voice])
    return voices
