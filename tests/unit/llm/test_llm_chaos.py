"""A thousand streams that are cancelled, lose their listeners or are preempted: nothing leaks, others run on."""

from __future__ import annotations

import math
import random
import threading
from dataclasses import replace

import pytest

from services.common.checkpoint.model_dir import ModelDir
from services.common.engine.shell import EngineFull
from services.llm.engine.backends import CostModel, SimulatedBackend
from services.llm.engine.engine import Handle, LlmEngine
from services.llm.engine.layout import RequestError
from services.llm.engine.scheduler import EngineLimits, Order, earliest_deadline, fifo
from services.llm.engine.sequence import Event, Request, SamplingOptions
from tests.unit.llm.llm_support import PATIENCE_S, Listener, MakeEngine, run, utterance

COSTS = CostModel(step_s=0.0, step_s_per_sequence=0.0, prefill_s_per_token=0.0)
STREAMS = 1000
LIMITS = EngineLimits(
    max_running=12,
    max_waiting=20,
    total_tokens=240,
    max_request_tokens=192,
    block_size=4,
    prefill_tokens=32,
    lead_s=1.0,
)


class Leaver(Listener):
    """Raises at its n-th event, like the queue of a broken connection."""

    def __init__(self, patience: int) -> None:
        super().__init__()
        self._patience = patience

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        if len(self.events) > self._patience:
            raise ConnectionError("the client is gone")


def request_of(rng: random.Random) -> Request:
    number = rng.randrange(1, 30)
    request = replace(utterance(number, max_seconds=4), sampling=SamplingOptions(seed=number))
    if rng.random() < 0.3:
        request = replace(request, text_order="interleaved")
    return replace(request, play_at=rng.choice([None, 0.0, 1e9]))


@pytest.mark.parametrize("order", [fifo, earliest_deadline])
def test_a_thousand_disturbances(make_engine: MakeEngine, mini_dir: ModelDir, order: Order) -> None:
    rng = random.Random(11)
    with make_engine(backend=SimulatedBackend(mini_dir.llm, COSTS, lambda seconds: None)) as calm:
        expected: dict[Request, tuple[int, ...]] = {}
        with make_engine(LIMITS, SimulatedBackend(mini_dir.llm, COSTS, lambda seconds: None), order) as engine:
            kept: list[tuple[Request, Listener]] = []
            doomed: list[Handle] = []
            for _ in range(STREAMS):
                request = request_of(rng)
                fate = rng.choice(["kept", "cancelled", "held", "starved", "leaves"])
                listener = Leaver(rng.randrange(20)) if fate == "leaves" else Listener()
                handle = submit(engine, disturbed(request, fate), listener, doomed, rng)
                disturb(engine, handle, fate, request, rng)
                if fate in ("kept", "starved"):
                    kept.append((request, listener))
                elif fate != "leaves":
                    doomed.append(handle)
                if rng.random() < 0.5 and doomed:
                    engine.cancel(doomed.pop(rng.randrange(len(doomed))))
            for handle in doomed:
                engine.cancel(handle)
            for request, listener in kept:
                key = replace(request, play_at=None)
                if key not in expected:
                    expected[key] = run(calm, key).raw_ids
                assert listener.wait().raw_ids == expected[key]
            idle(engine)
            stats = engine.stats()
        assert stats.finished + stats.cancelled + stats.failed == STREAMS
        assert min(stats.cancelled, stats.failed, stats.preemptions) > 50


def disturbed(request: Request, fate: str) -> Request:
    if fate == "held":
        return replace(request, max_tokens=3)
    if fate == "starved":
        return replace(request, text_ids=(), text_complete=False)
    return request


def disturb(engine: LlmEngine, handle: Handle, fate: str, request: Request, rng: random.Random) -> None:
    if fate == "starved":
        for piece in request.text_ids:
            engine.append_text(handle, [piece])
        engine.end_text(handle)
    if rng.random() < 0.3:
        engine.set_play_at(handle, rng.uniform(0, 1e6))


def submit(engine: LlmEngine, request: Request, listener: Listener, doomed: list[Handle], rng: random.Random) -> Handle:
    """Submit a request; if the engine is full, cancel another one or wait."""
    pause = threading.Event()
    for _ in range(int(PATIENCE_S * 1000)):
        try:
            return engine.submit(request, listener)
        except EngineFull:
            if doomed:
                engine.cancel(doomed.pop(rng.randrange(len(doomed))))
            pause.wait(0.001)
    raise AssertionError("the engine never had room again")


def idle(engine: LlmEngine) -> None:
    pause = threading.Event()
    assert any(
        engine.stats().kv_blocks_used == engine.stats().running == engine.stats().waiting == 0 or pause.wait(0.001)
        for _ in range(int(PATIENCE_S * 1000))
    )


def test_a_listeners_clock_must_be_a_number(make_engine: MakeEngine) -> None:
    with make_engine() as engine:
        handle = engine.submit(replace(utterance(5), max_tokens=0), Listener())
        with pytest.raises(RequestError, match="play_at"):
            engine.set_play_at(handle, math.inf)
        engine.set_play_at(handle, None)
        engine.cancel(handle)
