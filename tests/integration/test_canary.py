"""The canary: after an engine error, a worker whose backend is broken ends; its streams move to another worker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.checkpoint.model_dir import open_model_dir
from services.common.engine.shell import EngineClosed
from services.common.metrics import SCRAPES, exposition, until_scraped
from services.common.pool import open_channel
from services.common.server import ServiceServer
from services.decode.engine import backends as decode_backends
from services.decode.engine.torch_backend import TorchBackend as TorchDecodeBackend
from services.decode.server import DecodeService
from services.decode.settings import DecodeSettings
from services.llm.engine import backends as llm_backends
from services.llm.engine.engine import LlmEngine
from services.llm.engine.scheduler import EngineLimits
from services.llm.engine.sequence import Request, SamplingOptions
from services.llm.model.model import load_speech_lm
from services.llm.model.torch_backend import TorchBackend as TorchLlmBackend
from tests.support.llm import TINY, Llm, Spoken, all_serving, llm_service, metric
from tests.unit.decode import decode_support
from tests.unit.llm import llm_support

CPU = torch.device("cpu")
MODEL = open_model_dir(TINY)
BAD = 13
"""The seed of the request that fails by itself."""


class Faults:
    """When a backend fails: at every call after `last`, and at calls with the bad request.

    A call after `free` waits for `go`.
    """

    def __init__(self, last: int = 10**9) -> None:
        self.last, self.free = last, 10**9
        self.go = threading.Event()
        self.calls = 0

    def check(self, seeds: Sequence[int]) -> None:
        self.calls += 1
        assert self.calls <= self.free or self.go.wait(decode_support.TIMEOUT)
        if self.calls > self.last:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if BAD in seeds:
            raise MemoryError("out of memory")


class DecodeBackend(decode_backends.SimulatedBackend):
    def __init__(self, faults: Faults) -> None:
        costs = decode_backends.CostModel(0.001, 0, 0)
        super().__init__(costs, decode_backends.AudioFormat.of(MODEL))
        self._faults = faults

    def run(self, hops: Any, beat: Callable[[], None]) -> Any:
        self._faults.check([hop.state.seed for hop in hops])
        return super().run(hops, beat)


class LlmBackend(llm_backends.SimulatedBackend):
    def __init__(self, faults: Faults) -> None:
        super().__init__(MODEL.llm, llm_backends.CostModel(0, 0, 0))
        self._faults = faults

    def step(self, batch: Any) -> Any:
        self._faults.check([one.sequence.request.sampling.seed for one in batch])
        return super().step(batch)


Speak = Callable[[int], Callable[[], Any]]
"""Begin an utterance with a seed; the result waits for its end and returns its error, or None."""


@contextmanager
def decode_engine(faults: Faults) -> Iterator[tuple[Any, Speak]]:
    with decode_support.running(DecodeBackend(faults)) as engine:

        def speak(seed: int) -> Callable[[], Any]:
            listener = decode_support.speak(engine, decode_support.voice(seed=seed), range(60))

            def error() -> Any:
                try:
                    listener.wait()
                except Exception as failure:  # noqa: BLE001 - whatever the stream failed with is the result
                    return failure
                return None

            return error

        yield engine, speak


@contextmanager
def llm_engine(faults: Faults) -> Iterator[tuple[Any, Speak]]:
    engine = LlmEngine(LlmBackend(faults), MODEL)
    try:

        def speak(seed: int) -> Callable[[], Any]:
            listener = llm_support.Listener()
            engine.submit(Request((1, 2, 3), sampling=SamplingOptions(seed=seed)), listener)
            return lambda: listener.wait().error

        yield engine, speak
    finally:
        engine.close()


ENGINES = {"decode": decode_engine, "llm": llm_engine}


@pytest.mark.parametrize("make", ENGINES.values(), ids=ENGINES)
def test_an_error_of_one_request_leaves_the_engine_running(make: Any) -> None:
    with make(Faults()) as (engine, speak):
        failures: list[int] = []
        engine.on_canary_failure = lambda: failures.append(1)
        ends = {seed: speak(seed) for seed in (1, BAD, 2)}
        assert isinstance(ends[BAD](), MemoryError)
        assert ends[1]() is None
        assert ends[2]() is None
        assert engine.alive
        assert not failures


@pytest.mark.parametrize("make", ENGINES.values(), ids=ENGINES)
def test_a_broken_backend_ends_the_engine_and_its_streams_can_move(make: Any) -> None:
    faults = Faults(last=1)
    with make(faults) as (engine, speak):
        failures: list[int] = []
        engine.on_canary_failure = lambda: failures.append(1)
        ends = []
        for seed in (1, 2, 3):
            try:
                ends.append(speak(seed))
            except EngineClosed:  # the engine has ended before this stream was opened
                break
        assert ends
        for end in ends:
            assert isinstance(end(), EngineClosed), "an INTERNAL would count against the request"
        decode_support.wait_until(lambda: not engine.alive)
        assert failures == [1]


async def test_streams_of_a_worker_with_a_broken_backend_move_and_the_worker_stops_serving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults: list[Faults] = []

    def backend(*args: Any) -> DecodeBackend:
        faults.append(Faults())
        return DecodeBackend(faults[-1])

    monkeypatch.setattr("services.decode.server.load_backend", backend)
    before = metric("lighttts_decode_canary_failures_total")
    async with AsyncExitStack() as stack:
        servers: list[tuple[ServiceServer, DecodeService]] = []
        for name in ("a", "b"):
            settings = DecodeSettings(port=0, worker_name=name)
            service = DecodeService(settings)
            server = ServiceServer(service, settings)
            stack.push_async_callback(server.close)
            await server.start()
            servers.append((server, service))
        addresses = [server.address for server, _ in servers]
        llm = await stack.enter_async_context(llm_service(tmp_path, *addresses, step_s=0.001, lead_seconds=2.0))
        await all_serving(addresses)
        expected = await llm.speak()
        spoken = await broken_in_mid_stream(llm, faults)
        assert spoken.samples.tobytes() == expected.samples.tobytes()
        assert [move.reason for move in spoken.moved] == ["refused"]
        lost = next(server for server, service in servers if not service.alive)
        await lost.failed.wait()
        async with open_channel(lost.address) as channel:
            request = health_pb2.HealthCheckRequest(service="lighttts.v1.Decode")
            health: Any = health_pb2_grpc.HealthStub(channel)
            status = (await health.Check(request)).status
        assert status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert metric("lighttts_decode_canary_failures_total") == before + 1
        assert (await llm.speak()).done is not None


async def broken_in_mid_stream(llm: Llm, faults: list[Faults]) -> Spoken:
    """Speak, and break the worker that sends the audio after its first message."""
    spoken, broken = Spoken(), False
    calls = [one.calls for one in faults]
    for one in faults:
        one.free = one.calls + 1  # the utterance cannot end before the worker breaks
    async for _ in llm.responses(spoken):
        if (
            spoken.audio and not broken
        ):  # once: the worker that takes over calls its backend before the move is reported
            busy = next(one for one, earlier in zip(faults, calls, strict=True) if one.calls > earlier)
            busy.last, broken = 0, True
            for one in faults:
                one.go.set()
    return spoken


def test_the_canary_passes_on_the_backends_that_compute() -> None:
    beats: list[int] = []
    decode_backends.run_canary(TorchDecodeBackend(MODEL, CPU), lambda: beats.append(1))
    assert beats
    for block_size in (2, 16):
        limits = EngineLimits(total_tokens=256, max_request_tokens=128, block_size=block_size)
        llm = TorchLlmBackend(load_speech_lm(MODEL, CPU, torch.float32))
        llm.reserve(limits.num_blocks, limits.block_size)
        llm_backends.run_canary(llm, MODEL, limits)


async def test_a_failed_process_waits_for_the_scrape_that_shows_its_counter() -> None:
    exposition()
    waiting = asyncio.create_task(until_scraped(1000.0, poll_seconds=0.001))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    exposition()
    await waiting


async def test_a_failed_process_without_a_scraper_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SCRAPES, "count", 0)
    async with asyncio.timeout(60):
        await until_scraped(1000.0)
