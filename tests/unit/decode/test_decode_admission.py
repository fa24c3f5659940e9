"""Measured admission under load: accepted sessions have no silence, and the engine stays busy. Time is simulated."""

from __future__ import annotations

import random
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from services.common.engine.places import Place
from services.common.engine.shell import EngineFull
from services.decode.engine import engine as engine_module
from services.decode.engine.admission import HEADROOM, Demand, busy_share
from services.decode.engine.backends import AudioFormat, CostModel, SimulatedBackend, run_trials
from services.decode.engine.engine import DecodeEngine, Handle
from services.decode.engine.events import AudioEvent, Event
from services.decode.engine.scheduler import EngineLimits
from services.decode.engine.service_time import ExtraWork, ServiceTime
from tests.support.virtual_time import EngineTime, VirtualTime
from tests.unit.decode import decode_support as support

COSTS = CostModel.read(Path(__file__).parents[3] / "services" / "decode" / "costs" / "guided-cpu.json")
PROMPT = 86
"""The first chunk ends 14 tokens later: the shortest first audio, 0.36 s, and so the least time for the next hop."""
SENTENCE_TOKENS = (60, 125)
SENTENCE_S = sum(SENTENCE_TOKENS) / 2 / 25
FIRST_AUDIO_S = 0.5
TOKENS_PER_S = 90.0
"""Speed of the llm for one stream under load."""
FIRST_TOKENS, MORE_TOKENS = 17, 25
"""The llm sends what completes a chunk and its lookahead."""
LOAD_S = 12.0
CAPACITY = 7.5
"""Seconds of speech per second of one worker, about."""


class World:
    """One decode worker that has just been measured, as before its first stream."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seed: int = 1) -> None:
        self.time = VirtualTime()
        self.random = random.Random(seed)
        self.sessions: list[Session] = []
        self.refused = 0
        own = EngineTime(self.time)
        monkeypatch.setattr(engine_module, "EngineThread", own.thread)
        backend = SimulatedBackend(COSTS, AudioFormat(), own.sleep)
        self.now = own.clock
        self.engine = DecodeEngine(backend, EngineLimits(max_batch=16), clock=own.clock)
        measured = self.engine.measure()
        self.time.run()
        measured.result(0)

    def load(self, sentences: int, load: float) -> float:
        """Offer `load` capacities of sessions; return the seconds of speech per second that were delivered."""
        rate = load * CAPACITY / (sentences * SENTENCE_S)
        began = when = self.time.now
        while when < began + LOAD_S:
            when += self.random.expovariate(rate)
            self.time.at(when, partial(self.open_session, sentences))
        self.time.run()
        late = began + LOAD_S / 4, began + LOAD_S
        return sum(one.heard_between(*late) for one in self.sessions) / (late[1] - late[0])

    def open_session(self, sentences: int) -> None:
        session = Session(self, f"session {len(self.sessions)}", sentences)
        try:
            session.speak(None)
        except EngineFull:
            self.refused += 1
        else:
            self.sessions.append(session)


class Session:
    """A listener of several sentences. The next sentence begins at the first audio of the current one."""

    def __init__(self, world: World, name: str, sentences: int) -> None:
        self.world, self.name, self.sentences = world, name, sentences
        self.spoken: list[list[Event]] = []
        self.heard = 0
        """Sentences whose audio has arrived completely."""
        self.ends_at: float | None = None
        """When the audio received so far will have been played."""
        self.silence = 0.0
        self.received: list[tuple[float, float]] = []
        """Time and seconds of each audio."""

    @property
    def seconds(self) -> float:
        return sum(seconds for _, seconds in self.received)

    def heard_between(self, start: float, end: float) -> float:
        return sum(seconds for at, seconds in self.received if start <= at < end)

    def speak(self, play_at: float | None) -> None:
        world = self.world
        events: list[Event] = []
        due = world.time.now + FIRST_AUDIO_S if play_at is None else play_at
        place = Place(self.name, admitted=bool(self.spoken))
        spec = support.voice(PROMPT, voice="voice", deadline=due, play_at=play_at, place=place)
        handle = world.engine.open(spec, partial(self._on_event, events))
        self.spoken.append(events)
        tokens = support.speech(world.random.randint(*SENTENCE_TOKENS))
        ends = [*range(FIRST_TOKENS, len(tokens), MORE_TOKENS), len(tokens)]
        for start, end in pairwise([0, *ends]):
            at = world.time.now + end / TOKENS_PER_S
            world.time.at(at, partial(self._push, handle, tokens[start:end], end == len(tokens)))

    def _push(self, handle: Handle, tokens: list[int], last: bool) -> None:
        self.world.engine.push(handle, tokens, last)

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
        now = self.world.now()
        if self.ends_at is not None:
            self.silence += max(0.0, now - self.ends_at)
        self.ends_at = max(now, self.ends_at or now) + seconds
        self.received.append((now, seconds))
        if len(self.spoken) == self.heard + 1 < self.sentences:
            # The gateway counts half of the audio that is estimated but has not arrived.
            self.world.time.at(now, partial(self.speak, self.ends_at + SENTENCE_S / 2))


def test_sessions_that_a_new_worker_accepts_in_a_flood_have_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions: list[Session] = []
    for seed in (1, 2, 3):
        with monkeypatch.context() as patch:
            world = World(patch, seed)
            world.load(1, 5)
        assert world.refused > len(world.sessions)
        sessions += world.sessions
    silence, speech = (sum(getattr(one, name) for one in sessions) for name in ("silence", "seconds"))
    assert silence < 0.012 * speech  # 1.0 %; before, 5.4 %, and 40 of 74 sessions instead of 4 of 78
    assert sum(one.silence > 0.005 for one in sessions) < 0.1 * len(sessions)


def test_a_flood_lowers_the_goodput_by_less_than_a_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = {}
    for load in (1.5, 5):
        with monkeypatch.context() as patch:
            loads[load] = World(patch).load(1, load)
    assert loads[5] > 0.9 * loads[1.5]
    assert loads[5] > 0.9 * CAPACITY


def test_a_worker_has_service_times_before_its_first_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them the first second of a flood is admitted whole."""
    world = World(monkeypatch)
    for _ in range(20):
        world.open_session(1)
    assert 1 < len(world.sessions) < 10
    assert world.refused == 20 - len(world.sessions)


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
    assert extra.hops(25) == 1.0
    assert extra.tokens == pytest.approx(1.0)


@pytest.mark.parametrize(("frame_s", "batches"), [(0.0001, 4), (0.005, 3), (0.05, 1), (1.0, 1)])
def test_a_slow_backend_is_measured_by_fewer_batches(
    frame_s: float, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large model on a CPU must not delay the start by minutes."""
    slept: list[float] = []
    backend = SimulatedBackend(CostModel(0.01, 0.0, frame_s), AudioFormat(), slept.append)
    monkeypatch.setattr(backend, "evict", None)  # operators read a warning about too little memory after an eviction
    times = ServiceTime()
    run_trials(backend, times, lambda: sum(slept), lambda: None)
    assert len(slept) == batches * SimulatedBackend.BEATS
    assert times.seconds([100]) == pytest.approx(0.01 + 2 * 100 * frame_s, rel=0.2)
