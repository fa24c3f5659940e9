"""What the simulated processes share: the world, life and health of a process, and the discovery of a service."""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import cast

import grpc
import grpc.aio
import numpy as np

from cli.simulator.network import Call, Channel, Serve, broken
from cli.simulator.scenario import Scenario
from cli.simulator.virtual_time import Execution, VirtualLoop
from services.common.checkpoint.model_dir import ModelDir, open_model_dir
from services.common.pool import Pool
from services.common.pool.health import CHECK_INTERVAL_SECONDS, CHECK_TIMEOUT_SECONDS, Health
from services.common.pool.picker import RoundRobin
from services.common.settings import EMBEDDED_MODEL
from services.common.voices.voice import Voice
from services.decode.engine.backends import AudioFormat

_SERVING = Health(reachable=True, serving=True, detail="")
_DRAINING = Health(reachable=True, serving=False, detail="it is draining")
_SILENT = Health(reachable=False, serving=False, detail="it answers no health check")
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
        super().__init__(process.method, process.begin, process.check)
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
        self.execution = Execution(world.loop)
        self._health = _SERVING
        self._changed = asyncio.Event()
        self._runs = asyncio.Event()
        """Set while it is not frozen."""
        self._runs.set()

    def begin(self, serve: Serve) -> Call:
        """Begin a call from another process."""
        call = Call(serve, self.world.scenario.network_seconds, self._ended, self.execution.context.copy())
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

    async def start(self) -> None:
        """Get ready, in the process's own context."""
        await asyncio.create_task(self.warm_up(), context=self.execution.context.copy())

    async def check(self, seconds: float) -> None:
        """Answer a health check of another process. Raises AioRpcError without an answer within `seconds`."""
        if not self.alive:
            raise broken(grpc.StatusCode.UNAVAILABLE, "the process ended")
        try:
            async with asyncio.timeout(seconds):
                await asyncio.sleep(self.world.scenario.network_seconds)
                await self._runs.wait()
                await asyncio.sleep(self.world.scenario.network_seconds)
        except TimeoutError:
            raise broken(grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer within {seconds:g} s") from None

    async def freeze(self, seconds: float) -> None:
        """Stop for some seconds, as SIGSTOP does: connections stay, messages wait, health checks have no answer."""
        if not self.alive or self.execution.frozen:
            return
        self.execution.freeze()
        self._runs.clear()
        noticed = CHECK_TIMEOUT_SECONDS + self.world.chance.uniform(0.0, CHECK_INTERVAL_SECONDS)
        try:
            await asyncio.sleep(min(seconds, noticed))
            before = self._health
            if seconds > noticed and self.alive:
                self._set_health(_SILENT)
                await asyncio.sleep(seconds - noticed)
            if self.alive and self._health is _SILENT:
                self._set_health(before)
        finally:
            self._go_on()

    def _go_on(self) -> None:
        self.execution.go_on()
        self._runs.set()

    def kill(self) -> None:
        """End the process at once, as SIGKILL does."""
        if not self.alive:
            return
        self.alive = False
        self._set_health(_LOST)
        for call in list(self.calls):
            call.disconnect()
        self.stop_engine()
        self._go_on()  # what it still does reaches no other process

    async def drain(self) -> None:
        """Take no further calls, and end when the running ones have."""
        self.draining = True
        self._set_health(_DRAINING)
        self.hand_over()
        await self.idle.wait()
        self.kill()

    @abstractmethod
    async def warm_up(self) -> None:
        """Do what makes the process ready."""

    @abstractmethod
    def method(self, path: str) -> Serve | None:
        """Return the method of a path; None if the process does not have it."""

    @abstractmethod
    def hand_over(self) -> None:
        """Ask the callers to continue elsewhere."""

    @abstractmethod
    def stop_engine(self) -> None:
        """End the engine."""


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
