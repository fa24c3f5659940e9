"""Measured admission under load: accepted sessions have no silence, and the engine stays busy. Time is simulated."""

from __future__ import annotations

import heapq
import itertools
import random
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from services.common.engine.places import Place
from services.common.engine.shell import EngineFull
from services.decode.engine.admission import HEADROOM, Demand, busy_share
from services.decode.engine.backends import AudioFormat, CostModel, SimulatedBackend
from services.decode.engine.engine import DecodeEngine
from services.decode.engine.events import AudioEvent, Event
from services.decode.engine.service_time import ExtraWork, ServiceTime
from tests.unit.decode import decode_support as support

COSTS = CostModel.read(Path(__file__).parents[3] / "services" / "decode" / "costs" / "tiny-cpu.json")
PROMPT = 70
SENTENCE_TOKENS = (60, 125)
SENTENCE_S = sum(SENTENCE_TOKENS) / 2 / 25
FIRST_AUDIO_S = 0.5
LOAD_S = 40.0
"""Simulated seconds."""


class World:
    """A decode engine over simulated time: the clock moves only while a hop is decoded."""

    def __init__(self) -> None:
        self.now = 0.0
        self.random = random.Random(7)
        self.sessions: list[Session] = []
        self.refused = 0
        self.drained = threading.Event()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.engine = DecodeEngine(SimulatedBackend(COSTS, AudioFormat(), self._sleep), clock=lambda: self.now)

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._due, (when, next(self._order), action))

    def open_session(self, sentences: int) -> None:
        session = Session(self, f"session {len(self.sessions)}", sentences)
        try:
            session.speak(None)
        except EngineFull:
            self.refused += 1
        else:
            self.sessions.append(session)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        while self._due and self._due[0][0] <= self.now:
            heapq.heappop(self._due)[2]()
        if not self._due:
            self.drained.set()


class Session:
    """A listener of several sentences. The next sentence begins at the first audio of the current one."""

    def __init__(self, world: World, name: str, sentences: int) -> None:
        self.world, self.name, self.sentences = world, name, sentences
        self.spoken: list[list[Event]] = []
        self.heard = 0
        """Sentences whose audio has arrived completely."""
        self.ends_at: float | None = None
        """When the audio received so far will have been played."""
        self.seconds = self.silence = 0.0

    def speak(self, play_at: float | None) -> None:
        world = self.world
        events: list[Event] = []
        due = world.now + FIRST_AUDIO_S if play_at is None else play_at
        place = Place(self.name, admitted=bool(self.spoken))
        spec = support.voice(PROMPT, deadline=due, play_at=play_at, place=place)
        handle = world.engine.open(spec, partial(self._on_event, events))
        self.spoken.append(events)
        world.engine.push(handle, support.speech(world.random.randint(*SENTENCE_TOKENS)), last=True)

    def _on_event(self, events: list[Event], event: Event) -> None:
        events.append(event)
        while self.heard < len(self.spoken) and self.spoken[self.heard]:
            current = self.spoken[self.heard].pop(0)
            assert isinstance(current, AudioEvent)
            self._hear(len(current.samples) / 24000)
            self.heard += current.last

    def _hear(self, seconds: float) -> None:
        if not seconds:
            return
        now = self.world.now
        if self.ends_at is not None:
            self.silence += max(0.0, now - self.ends_at)
        self.ends_at = max(now, self.ends_at or now) + seconds
        self.seconds += seconds
        if len(self.spoken) == self.heard + 1 < self.sentences:
            # The gateway counts half of the audio that is estimated but has not arrived.
            self.speak(self.ends_at + SENTENCE_S / 2)


@pytest.mark.parametrize("sentences", [1, 3])
def test_accepted_sessions_have_no_silence_at_five_times_the_capacity(sentences: int) -> None:
    world = World()
    try:
        support.speak(world.engine, support.voice(PROMPT), support.speech(200)).wait()  # measures the service times
        world.drained.clear()
        began = world.now
        capacity = 1 / (COSTS.seconds(1, 50, 50 * 300))  # one full hop per second of speech
        rate = 5 * capacity / (sentences * SENTENCE_S)
        when = began
        while when < began + LOAD_S:
            when += world.random.expovariate(rate)
            world.at(when, partial(world.open_session, sentences))
        world.open_session(sentences)  # from here on there is always work, so that the clock moves
        assert world.drained.wait(support.TIMEOUT)
        speech = sum(session.seconds for session in world.sessions)
        assert world.refused > len(world.sessions)
        assert sum(session.silence for session in world.sessions) < 0.005 * speech
        assert world.engine.stats().busy_s > 0.9 * world.now  # no capacity is held back
    finally:
        world.engine.close()


def test_short_utterances_need_more_work_than_full_hops() -> None:
    times, extra = ServiceTime(), ExtraWork()
    for hops, tokens in ((1, 25), (2, 50), (1, 100)):
        times.observe(hops, tokens, 0.1 * hops + 0.004 * tokens)
    demands = [Demand(25, 1.0)] * 4
    assert busy_share(demands, times, extra, 1, 25.0) == pytest.approx(0.8, rel=0.02)
    for _ in range(1000):  # an utterance of 2 s: a prompt of 50 tokens, two hops and a short last one
        for seconds, computed in ((0.8, 75), (1.0, 25), (0.2, 5)):
            extra.observe(seconds, computed, 25, 25.0)
    # Per 2 s: three hops of 0.1 s, and 105 tokens.
    assert busy_share(demands, times, extra, 1, 25.0) == pytest.approx(4 * (0.3 + 0.42) / 2, rel=0.02)
    assert busy_share(demands[:2], times, extra, 1, 25.0) < HEADROOM < busy_share(demands[:3], times, extra, 1, 25.0)


def test_hops_that_grew_while_there_was_time_count_as_full_ones() -> None:
    extra = ExtraWork()
    for _ in range(1000):
        extra.observe(4.0, 100, 25, 25.0)
    assert extra.hops == 1.0
    assert extra.tokens == pytest.approx(1.0)
