"""Order of hops, admission and eviction: the rules alone, and in the engine over the simulated backend."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.checkpoint.chunk_plan import ChunkPlan
from services.common.engine.places import Place
from services.common.engine.shell import EngineFull
from services.decode.engine.admission import Demand, busy_share, late_streams, overload
from services.decode.engine.backends import AudioFormat, CostModel, Hop, SimulatedBackend
from services.decode.engine.engine import DecodeEngine
from services.decode.engine.hops import HopPolicy
from services.decode.engine.scheduler import (
    EngineLimits,
    Job,
    Moment,
    Stream,
    deadline,
    fifo,
    pick,
    ready_jobs,
    victims,
)
from services.decode.engine.service_time import ExtraWork, ServiceTime
from services.decode.engine.state import StreamSpec
from tests.unit.decode import decode_support as support

AUDIO = AudioFormat()
COSTS = CostModel(batch_s=0.1, stream_s=0.0, frame_s=0.002)


def times(base: float = 0.1, per_token: float = 0.004) -> ServiceTime:
    made = ServiceTime()
    for hops, tokens in ((1, 25), (1, 100), (2, 50), (4, 200)):
        made.observe(hops, tokens, base + per_token * tokens)
    return made


def at(now: float, limits: EngineLimits | None = None) -> Moment:
    return Moment(now, AUDIO, limits or EngineLimits(), times(), lambda _: 0)


def stream(name: str = "", **fields: Any) -> Stream:
    spec = support.voice(0, voice=name, **{key: fields.pop(key) for key in ("offline", "deadline") if key in fields})
    made = Stream(spec, fields.pop("arrival", 0.0), spec.plan)
    made.tokens = support.speech(300)
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def job(due: float, since: float = 0.0, tokens: int = 25, service: float = 0.2) -> Job:
    return Job(stream(), tokens, False, since, due, tokens, service)


@pytest.mark.parametrize("sizes", [[(1, 50)], [(2, 150), (1, 75), (4, 220)], [(1, 0), (3, 0)]])
def test_service_times_are_those_of_least_squares(sizes: list[tuple[int, int]]) -> None:
    made, moments, products = ServiceTime(), np.zeros((3, 3)), np.zeros(3)
    for number in range(40):
        hops, tokens = sizes[number % len(sizes)]
        seconds = 0.02 + 0.003 * hops + 0.0005 * tokens + 0.001 * (number % 3)
        made.observe(hops, tokens, seconds)
        row = np.array([1.0, hops, tokens])
        moments, products = 0.98 * moments + np.outer(row, row), 0.98 * products + seconds * row
    damped = moments + np.diag([1e-2, 1e-3, 0.0])
    terms = np.linalg.lstsq(damped, products, rcond=None)[0]
    assert min(terms) > -1e-9  # otherwise the estimate leaves a term out
    for hop_tokens in ([25], [50], [25, 25, 100]):
        assert made.seconds(hop_tokens) == pytest.approx(terms @ (1.0, len(hop_tokens), sum(hop_tokens)), rel=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_service_times_are_estimated(scale: float) -> None:
    learnt = times(0.1 * scale, 0.004 * scale)
    assert learnt.seconds([25, 50]) == pytest.approx(0.4 * scale, rel=0.02)
    assert not ServiceTime().known
    assert ServiceTime().seconds([25]) == 0


def test_service_times_of_batches_of_one_size() -> None:
    learnt = ServiceTime()
    for _ in range(20):
        learnt.observe(1, 25, 0.5)
    assert learnt.seconds([25]) == pytest.approx(0.5, rel=0.02)
    assert learnt.seconds([50]) >= 0.5
    assert learnt.seconds([25, 25]) >= 0.9, "nothing shows that hops share a part of the cost"


def test_service_times_of_batches_have_a_part_per_hop() -> None:
    learnt = ServiceTime()
    for hops, tokens in ((1, 25), (1, 75), (2, 50), (3, 100), (6, 150)):
        learnt.observe(hops, tokens, 0.07 + 0.04 * hops + 0.002 * tokens)
    assert learnt.seconds([25] * 8) == pytest.approx(0.07 + 0.32 + 0.4, rel=0.02)


def test_streams_are_ordered_by_the_end_of_their_audio_and_offline_work_is_last() -> None:
    new = stream("new", fed_at=9.0, arrival=9.0)
    near = stream("near", done=25, emitted=24000, played=(0.0, 9.2))
    far = stream("far", done=100, emitted=96000, played=(0.0, 9.2))
    offline = stream("offline", offline=True, fed_at=1.0)
    aged = stream("aged", offline=True, fed_at=-40.0, ready_since=-25.0)
    jobs = ready_jobs([offline, far, aged, near, new], at(10.0))
    assert [one.stream.spec.voice for one in sorted(jobs, key=deadline)] == ["aged", "new", "near", "far", "offline"]
    assert min(jobs, key=fifo).stream.spec.voice == "aged"


def test_a_hop_that_takes_longer_must_begin_earlier() -> None:
    quick, slow = job(due=5.0, service=0.2), job(due=5.5, service=2.0)
    assert pick([quick, slow], deadline, at(0.0, EngineLimits())) == [slow]
    assert pick([replace(quick, ready_since=-1.0), slow], fifo, at(0.0, EngineLimits()))[0].deadline == 5.0


def test_a_batch_grows_until_it_would_be_late() -> None:
    limits = EngineLimits(max_batch=8)
    jobs = [job(due=0.45), *(job(due=5.0) for _ in range(6))]
    assert len(pick(jobs, deadline, at(0.0, limits))) == 3  # 0.1 s and 0.1 s more for each
    assert len(pick(jobs, deadline, at(0.4, limits))) == 7  # late in any case, so only throughput helps
    assert len(pick(jobs, fifo, at(0.0, limits))) == 7
    assert pick([], deadline, at(0.0, limits)) == []


def test_a_batch_with_a_late_hop_does_not_make_others_late() -> None:
    late, playing = job(due=0.1), job(due=0.55)
    others = [job(due=5.0) for _ in range(5)]
    chosen = pick([late, playing, *others], deadline, at(0.0, EngineLimits(max_batch=8)))
    assert chosen[:2] == [late, playing]
    assert len(chosen) == 4  # 0.1 s and 0.1 s more for each


def test_the_first_hop_of_a_session_waits_for_a_stream_that_it_would_make_late() -> None:
    limits, starting = EngineLimits(max_batch=8), replace(job(due=0.0), stream=stream(fed_at=0.0))
    playing = replace(job(due=0.25), stream=stream(played=(0.0, 0.0)))
    assert pick([starting, playing], deadline, at(0.0, limits)) == [playing]
    assert pick([starting, replace(playing, deadline=1.0)], deadline, at(0.0, limits))[0] is starting
    assert pick([starting, replace(playing, deadline=-1.0)], deadline, at(0.0, limits)) != [starting]
    assert pick([starting], deadline, at(0.0, limits)) == [starting]


@pytest.mark.parametrize("begun", [{"played": (0.0, 0.0)}, {"admitted": True}, {"resume": b"record"}])
def test_the_next_hop_of_a_session_that_speaks_does_not_wait(begun: dict[str, Any]) -> None:
    limits, playing = EngineLimits(max_batch=8), replace(job(due=0.25), stream=stream(played=(0.0, 0.0)))
    one = stream(fed_at=0.0, played=begun.get("played"))
    one.spec = replace(one.spec, place=Place("a", begun.get("admitted", False)), resume=begun.get("resume", b""))
    assert replace(job(due=0.0), stream=one) in pick(
        [replace(job(due=0.0), stream=one), playing], deadline, at(0.0, limits)
    )


def test_the_first_hop_of_a_session_waits_for_all_streams_that_follow_it() -> None:
    """The four end 0.5 s after the batch, all at once: each alone would be early enough."""
    limits, starting = EngineLimits(max_batch=2), replace(job(due=0.0), stream=stream(fed_at=0.0))
    playing = [replace(job(due=0.65), stream=stream(played=(0.0, 0.0))) for _ in range(4)]
    assert starting not in pick([starting, *playing], deadline, at(0.0, limits))
    assert starting in pick([starting, *playing[:2]], deadline, at(0.0, limits))
    assert starting in pick([starting, *playing], deadline, at(0.6, limits)), "they are late in any case"


class FirstHop:
    """A first hop that takes 0.2 s for 0.34 s of audio, and 0.3 s for 0.84 s; later ones take 0.2 s."""

    audio = AudioFormat(held_frames=33)

    def __init__(self, **fields: Any) -> None:
        self.stream = stream(arrival=0.0, fed_at=0.0, **fields)

    def ends(self, *others: Stream, known: ServiceTime | None = None, max_batch: int = 1) -> int:
        streams, limits = [self.stream, *others], EngineLimits(max_batch=max_batch)
        made = ready_jobs(streams, Moment(0.0, self.audio, limits, known or times(), lambda _: 0))
        return next(one.end for one in made if one.stream is self.stream)


def test_a_first_hop_has_one_chunk_more_if_its_audio_would_not_last_until_the_next() -> None:
    def playing(lead: float) -> Stream:
        return stream(done=25, emitted=round(lead * 24000), played=(0.0, 0.0))

    assert FirstHop().ends() == 25
    assert FirstHop().ends(playing(1.0), playing(2.0)) == 25, "their listeners run dry later"
    assert FirstHop().ends(playing(1.0), playing(2.0), max_batch=2) == 25, "two hops at once take 0.3 s"
    assert FirstHop().ends(playing(1.0), playing(2.0), max_batch=4) == 50, "three hops at once take 0.4 s"
    assert FirstHop().ends(playing(0.5)) == 50, "the other one's hop comes between: 0.2 s"
    assert FirstHop().ends(known=times(0.3)) == 50, "the next hop takes 0.4 s"
    assert FirstHop().ends(known=ServiceTime()) == 25, "nothing is known of this device"
    assert FirstHop(played=(0.0, 0.0), done=25, emitted=24000).ends(playing(0.5)) == 50, "later hops go on as before"
    assert FirstHop(played=(0.0, 0.0), done=50, emitted=24000).ends(playing(0.5)) == 75


def test_a_first_hop_is_never_longer_than_its_known_tokens_or_the_largest_hop() -> None:
    slow = times(0.5)
    assert FirstHop().ends(known=slow) == 50
    assert FirstHop(ended=True).ends(known=slow) == 50
    few = FirstHop()
    few.stream.tokens = few.stream.tokens[:52]
    assert few.ends(known=slow) == 25, "the lookahead of the second chunk is unknown"
    few.stream.ended = True
    assert few.ends(known=slow) == 50
    far = FirstHop()
    far.stream.plan = ChunkPlan(100, 25)
    assert far.ends(known=slow) == 100, "it is as long as the largest hop already"


def test_admission_uses_measured_service_times() -> None:
    def playing(count: int, lead: float = 2.0) -> list[Demand]:
        return [Demand(25, lead) for _ in range(count)]

    def refusal(streams: list[Demand], one: Demand, max_batch: int = 1, known: ServiceTime | None = None) -> str | None:
        return overload(0.0, streams, one, known or times(), ExtraWork(), max_batch, 25.0)

    new = Demand(50, 1.0)
    assert busy_share(playing(4), times(), ExtraWork(), 1, 25.0) == pytest.approx(0.8, rel=0.02)
    assert refusal(playing(3), new) is None
    assert "4 streams play here" in str(refusal(playing(4), new))
    assert refusal(playing(4), new, max_batch=8) is None  # a batch shares its fixed cost
    assert "run dry" in str(refusal(playing(3, lead=1.25), new))
    assert refusal(playing(3, lead=1.25), new, max_batch=8) is None  # and its hops end together
    assert refusal(playing(4), replace(new, listening=False)) is None
    assert refusal([], Demand(5000, 0.0)) is None
    assert refusal(playing(50), new, known=ServiceTime()) is None


@given(st.lists(st.tuples(st.integers(1, 100), st.floats(0, 5)), max_size=8), st.integers(1, 200), st.floats(0, 5))
def test_no_playing_stream_is_late_because_of_an_admitted_one(
    streams: list[tuple[int, float]], tokens: int, due: float
) -> None:
    demands, new = [Demand(*one) for one in streams], Demand(tokens, due)
    if overload(0.0, demands, new, times(), ExtraWork(), 1, 25.0) is None:
        assert late_streams(0.0, demands, times(), 1, [new]) == late_streams(0.0, demands, times(), 1) or not demands


def test_a_stream_that_is_late_does_not_hide_that_another_one_would_be() -> None:
    late, near = Demand(25, 0.0), Demand(25, 0.9)
    assert overload(0.0, [late, near], Demand(25, 0.85), times(), ExtraWork(), 1, 25.0) is not None


def test_an_engine_at_capacity_refuses_and_recovers() -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    backend = SimulatedBackend(COSTS, AUDIO, sleep)
    engine = DecodeEngine(backend, clock=lambda: now[0])
    try:
        support.speak(engine, support.voice(0), support.speech(200)).wait()
        open_streams = []
        with pytest.raises(EngineFull, match="streams play here"):  # noqa: PT012 - which one is refused is not the point
            for _ in range(20):
                open_streams.append(engine.open(support.voice(0), support.Listener()))
        assert 3 <= len(open_streams) <= 5
        engine.open(support.voice(0, offline=True), support.Listener())
        engine.cancel(open_streams[0])
        engine.open(support.voice(0), support.Listener())  # at once: a cancelled stream takes no place
    finally:
        engine.close()


def test_an_underrun_is_counted_and_moves_the_playback_clock() -> None:
    now = [0.0]
    backend = SimulatedBackend(CostModel(0.0, 0.0, 0.0, 0), AUDIO, lambda seconds: None)
    engine = DecodeEngine(backend, clock=lambda: now[0])
    listener = support.Listener()
    try:
        handle = engine.open(support.voice(0, hops=HopPolicy(15, (25,))), listener)
        engine.push(handle, support.speech(28))
        listener.wait_events(1)
        support.wait_until(lambda: engine.stats().queued == 0)
        now[0] = 3.0  # two seconds after the first second of audio ended
        engine.push(handle, support.speech(22))
        engine.push(handle, support.speech(3))
        listener.wait_events(2)
        support.wait_until(lambda: engine.stats().underruns == 1)
        assert engine.stats().underrun_s == pytest.approx(2.0)
        now[0] = 3.9  # all but a tenth of a second of the second one has played
        engine.push(handle, support.speech(22), last=True)
        listener.wait()
        assert engine.stats().underruns == 1
    finally:
        engine.close()


def test_streams_with_a_large_lead_lose_their_memory_first() -> None:
    near = replace_state(stream("near", done=25, emitted=24000, played=(0.0, 0.0)))
    far = replace_state(stream("far", done=200, emitted=192000, played=(0.0, 0.0)))
    offline = replace_state(stream("offline", offline=True))
    stateless = stream("stateless", done=200, emitted=192000, played=(0.0, 0.0))
    everyone = [near, far, offline, stateless]
    urgent = Job(stream("new", fed_at=0.0), 25, False, 0.0, 0.5)
    assert [one.spec.voice for one in victims(everyone, urgent, 0.0, AUDIO)] == ["offline", "far"]
    relaxed = replace(urgent, stream=far)
    assert [one.spec.voice for one in victims([near, offline], relaxed, 0.0, AUDIO)] == ["offline"]
    assert offline.lead(0.0, 24000) == math.inf
    near.spec = replace(near.spec, max_unread_s=0.5)
    assert near in victims([near], urgent, 0.0, AUDIO), "its reader is slow, so it needs no hop soon"


def replace_state(made: Stream) -> Stream:
    made.state_bytes = 1
    return made


def test_a_full_pool_evicts_the_stream_with_the_largest_lead() -> None:
    class Small(SimulatedBackend):
        """Memory for one stream's state."""

        kept: int | None = None

        def has_room(self, hops: Any) -> bool:
            return self.kept in (None, *(id(hop.state) for hop in hops))

        def run(self, hops: Any, beat: Any) -> Any:
            self.kept = id(hops[0].state)
            return super().run(hops, beat)

        def state_bytes(self, state: Any) -> int:
            return 1000 * (self.kept == id(state))

        def evict(self, state: Any) -> int:
            self.kept = None
            return 1000

    with support.running(Small(CostModel(0, 0, 0, 0), AUDIO, lambda seconds: None), clock=lambda: 0.0) as engine:
        ahead = support.Listener()
        handle = engine.open(support.voice(0), ahead)
        engine.push(handle, support.speech(203))
        # The rest of it, decoded later, would evict the other stream.
        support.wait_until(lambda: sum(event.samples.shape[0] for event in ahead.audio_events) == 960 * 200)
        support.wait_until(lambda: engine.stats().state_bytes == 1000)
        audio = support.speak(engine, support.voice(0), support.speech(60)).wait()
        assert audio.shape == (57_600,)
        assert (engine.stats().evictions, engine.stats().evicted_bytes) == (1, 1000)
        engine.push(handle, [], last=True)
        assert ahead.wait().shape == (960 * 203,)


def test_recomputing_backends_cost_the_whole_history() -> None:
    slept: list[float] = []
    backend = SimulatedBackend(CostModel(0.0, 0.0, 0.001, 0), AUDIO, slept.append, recompute=True)
    spec: StreamSpec = support.voice(50)
    state, tokens = backend.open(spec), support.speech(100)
    for end in (75, 100):
        backend.run([Hop(state, tokens, end, final=False)], lambda: None)
    assert np.isclose(sum(slept), 0.001 * 2 * (75 + 100))
