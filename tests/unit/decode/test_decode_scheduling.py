"""The engine over the simulated backend: order, limits, back-pressure, cancellation, isolated failures."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from services.common.engine.places import Place
from services.common.engine.shell import EngineClosed, EngineFull, FailedEvent
from services.decode.engine.backends import AudioFormat, CostModel, Hop, HopAudio, SimulatedBackend
from services.decode.engine.events import AudioEvent, Event
from services.decode.engine.hops import HopPolicy
from services.decode.engine.scheduler import EngineLimits
from services.decode.engine.state import ResumeRecord, StreamError
from tests.support.cuda import Cuda
from tests.unit.decode import decode_support as support

COSTS = CostModel(batch_s=0.02, stream_s=0.01, frame_s=0.001, holdback_frames=12)
SMALL = HopPolicy(15, (25,))


def simulated(sleep: Callable[[float], None] = lambda seconds: None) -> SimulatedBackend:
    return SimulatedBackend(COSTS, AudioFormat(), sleep)


class Gate:
    """A sleep that waits for `open`, one batch at a time."""

    def __init__(self) -> None:
        self.asleep = threading.Event()
        self._go = threading.Semaphore(0)

    def __call__(self, seconds: float) -> None:
        self.asleep.set()
        assert self._go.acquire(timeout=support.TIMEOUT)

    def open(self, batches: int = 1000) -> None:
        self._go.release(batches * SimulatedBackend.BEATS)


class Poisoned(SimulatedBackend):
    """Fails every batch with the poisonous token."""

    POISON = 666

    def run(self, hops: Sequence[Hop], beat: Callable[[], None]) -> list[HopAudio | Exception]:
        if any(self.POISON in hop.tokens for hop in hops):
            raise RuntimeError("out of memory")
        return super().run(hops, beat)


def test_batches_run_with_the_backends_device_current(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, seen = Cuda(monkeypatch), set()
    backend = simulated(lambda seconds: seen.add(cuda.current))
    monkeypatch.setattr(backend, "device", torch.device("cuda:1"))
    with support.running(backend) as engine:
        support.speak(engine, support.voice(), support.speech(60)).wait()
    assert seen == {1}


def test_simulated_audio_depends_on_sample_token_and_seed_alone() -> None:
    tokens = support.speech(100)
    with support.running(simulated()) as engine:
        streamed = support.speak(engine, support.voice(seed=4, hops=SMALL), tokens, feed=9)
        audio = streamed.wait()
        whole = support.speak(engine, support.voice(seed=4, hops=HopPolicy(7000)), tokens).wait()
        other = support.speak(engine, support.voice(seed=5), tokens).wait()
        record = streamed.audio_events[1].resume
        moved = support.speak(engine, support.voice(seed=4, resume=record), tokens)
        moved.wait()
    assert audio.shape == (96_000,)
    assert np.array_equal(audio, whole)
    assert not np.array_equal(audio, other)
    assert np.array_equal(support.joined([*streamed.audio_events[:2], *moved.audio_events]), audio)


def test_simulated_speed_gives_the_real_number_of_samples() -> None:
    with support.running(simulated()) as engine:
        assert support.speak(engine, support.voice(speed=1.3, hops=SMALL), support.speech(70)).wait().shape == (51360,)


def test_simulated_backend_sleeps_for_its_costs() -> None:
    slept: list[float] = []
    with support.running(simulated(slept.append)) as engine:
        support.speak(engine, support.voice(30), support.speech(20)).wait()
    assert sum(slept) == pytest.approx(0.02 + 0.01 + 0.001 * 100)


def test_cost_files(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text(json.dumps({"batch_s": 0.1, "stream_s": 0, "frame_s": 1e-4, "holdback_frames": 14}))
    assert CostModel.read(path) == CostModel(0.1, 0.0, 1e-4, 14)
    for text in ("[]", "{}", '{"batch_s": -1, "stream_s": 0, "frame_s": 0}', '{"batch": 1}', "no json"):
        path.write_text(text)
        with pytest.raises(ValueError, match="cost file"):
            CostModel.read(path)


def test_the_oldest_wait_grows_while_a_batch_runs() -> None:
    """Autoscaling reads it, also from a worker whose device is slow or hangs."""
    gate, now, waits = Gate(), [10.0], []
    with support.running(simulated(gate), clock=lambda: now[0]) as engine:
        for _ in range(2):
            handle = engine.open(support.voice(30, hops=SMALL), support.Listener())
            engine.push(handle, support.speech(70))
        assert gate.asleep.wait(support.TIMEOUT)
        for now[0] in (11.0, 12.5):
            waits.append(engine.stats().oldest_s)
        gate.open()
    assert waits == [1.0, 2.5]


def test_streams_take_turns() -> None:
    order: list[str] = []

    def note(name: str) -> Callable[[Event], None]:
        return lambda event: order.append(name)

    gate, listener = Gate(), support.Listener()
    # By the real clock, the wait for the gate would count as the duration of a batch.
    with support.running(simulated(gate), clock=lambda: 0.0) as engine:
        tokens = support.speech(70)
        for name in "ab":
            handle = engine.open(support.voice(30, hops=SMALL), note(name))
            engine.push(handle, tokens)
        last = engine.open(support.voice(30, hops=SMALL), listener)
        engine.push(last, tokens, last=True)
        gate.open()
        listener.wait()
        assert order == ["a", "b", "a", "b"]


def test_cancel_takes_effect_within_a_batch() -> None:
    gate, listener = Gate(), support.Listener()
    with support.running(simulated(gate)) as engine:
        handle = engine.open(support.voice(), listener)
        engine.push(handle, support.speech(200), last=True)
        assert gate.asleep.wait(support.TIMEOUT)
        engine.cancel(handle)
        gate.open()
        support.wait_until(lambda: engine.stats().cancelled == 1)
        engine.cancel(handle)
        engine.push(handle, [1, 2, 3])
        support.speak(engine, support.voice(), support.speech(30)).wait()
        stats = engine.stats()
    assert listener.events == []
    assert (stats.cancelled, stats.failed) == (1, 0)


@pytest.mark.parametrize(
    ("tokens", "message"), [([1, 6561], "speech token 6561"), ([-1], "speech token -1"), ([0] * 7500, "7500")]
)
def test_bad_tokens_fail_their_stream_alone(tokens: list[int], message: str) -> None:
    with support.running(simulated()) as engine:
        good, bad = support.Listener(), support.Listener()
        healthy = engine.open(support.voice(), good)
        engine.push(healthy, support.speech(30))
        engine.push(engine.open(support.voice(), bad), tokens)
        with pytest.raises(StreamError, match=message):
            bad.wait()
        engine.push(healthy, support.speech(10), last=True)
        assert good.wait().shape[0] == 960 * 40
        assert engine.stats().failed == 1


def test_tokens_after_the_last_fail_the_stream() -> None:
    gate, listener = Gate(), support.Listener()
    with support.running(simulated(gate)) as engine:
        handle = engine.open(support.voice(), listener)
        engine.push(handle, support.speech(30), last=True)
        engine.push(handle, [1])
        gate.open()
        with pytest.raises(StreamError, match="after the last one"):
            listener.wait()


def test_a_failing_stream_does_not_fail_its_batch() -> None:
    limits = EngineLimits(max_batch=4)
    gate = Gate()
    with support.running(Poisoned(COSTS, AudioFormat(), gate), limits=limits) as engine:
        first = support.speak(engine, support.voice(), support.speech(30))
        assert gate.asleep.wait(support.TIMEOUT)
        good = support.speak(engine, support.voice(), support.speech(40))
        bad = support.speak(engine, support.voice(), [Poisoned.POISON] * 30)
        gate.open()
        assert first.wait().shape[0] == 960 * 30
        assert good.wait().shape[0] == 960 * 40
        with pytest.raises(RuntimeError, match="out of memory"):
            bad.wait()


def test_a_callback_that_raises_fails_its_own_stream_only() -> None:
    def raising(event: Event) -> None:
        raise ConnectionError("gone")

    with support.running(simulated()) as engine:
        engine.push(engine.open(support.voice(), raising), support.speech(100), last=True)
        assert support.speak(engine, support.voice(), support.speech(30)).wait().shape[0] == 960 * 30
        support.wait_until(lambda: engine.stats().failed == 1)
        assert engine.stats().streams == 0


def test_streams_beyond_the_limit_are_refused_until_one_ends() -> None:
    with support.running(simulated(), limits=EngineLimits(max_streams=1)) as engine:
        listener = support.Listener()
        handle = engine.open(support.voice(), listener)
        with pytest.raises(EngineFull, match="1 sessions are open"):
            engine.open(support.voice(), listener)
        engine.push(handle, support.speech(30), last=True)
        listener.wait()
        support.speak(engine, support.voice(), support.speech(30)).wait()


def test_a_long_queue_for_first_audio_refuses_new_streams() -> None:
    gate = Gate()
    with support.running(simulated(gate), limits=EngineLimits(max_queue=2)) as engine:
        silent = engine.open(support.voice(), support.Listener())  # has no tokens, so it is not in the queue
        waiting = [support.speak(engine, support.voice(), support.speech(30)) for _ in range(2)]
        with pytest.raises(EngineFull, match="2 sessions wait for audio"):
            engine.open(support.voice(), support.Listener())
        gate.open()
        for listener in waiting:
            listener.wait()
        support.speak(engine, support.voice(), support.speech(30)).wait()
        engine.cancel(silent)


def test_offline_streams_that_have_audio_do_not_wait_for_their_first() -> None:
    with support.running(simulated(), EngineLimits(max_queue=2)) as engine:
        listeners = [support.Listener(), support.Listener()]
        for name, listener in zip("ab", listeners, strict=True):
            handle = engine.open(support.voice(30, offline=True, place=Place(name)), listener)
            engine.push(handle, support.speech(200))
        for listener in listeners:
            listener.wait_events(1)
        engine.open(support.voice(30), support.Listener())
        assert engine.stats().queued == 0


def test_a_moved_stream_decodes_as_soon_as_a_small_hop_is_known() -> None:
    tokens = support.speech(300)
    with support.running(simulated()) as engine:
        first = support.Listener()
        engine.push(engine.open(support.voice(30), first), tokens, last=True)
        first.wait()
        resume = next(one.resume for one in first.audio_events if one.first_sample + one.samples.size > 8 * 24000)
        known = ResumeRecord.from_bytes(resume).done - 30 + 25 + AudioFormat().lookahead_tokens
        moved = support.Listener()
        engine.push(engine.open(support.voice(30, resume=resume), moved), tokens[:known])
        [audio] = moved.wait_events(1)
        assert 0 < audio.samples.size <= 24000


def test_a_slow_reader_pauses_its_stream() -> None:
    with support.running(simulated()) as engine:
        listener = support.Listener()
        handle = engine.open(support.voice(30, hops=SMALL, max_unread_s=1.0), listener)
        engine.push(handle, support.speech(150), last=True)
        first, second = listener.wait_events(2)  # 0.56 s, then 1 s more: now over the limit
        support.speak(engine, support.voice(), support.speech(100)).wait()
        assert len(listener.events) == 2
        engine.acknowledge(handle, second.first_sample + second.samples.shape[0])
        listener.wait_events(3)
        engine.acknowledge(handle, 10**9)
        assert listener.wait().shape[0] == 960 * 150
        assert first.first_sample == 0


@pytest.mark.parametrize(("played", "sizes"), [(0.0, [19, 25, 25, 25, 25, 50, 50]), (1.0, [19] + 6 * [25])])
def test_hops_grow_with_the_lead_over_the_listener(played: float, sizes: list[int]) -> None:
    made = []
    with support.running(simulated(), clock=lambda: 100.0) as engine:
        listener = support.Listener()
        handle = engine.open(support.voice(0, max_unread_s=0.5), listener)
        engine.push(handle, support.speech(375))
        for count in range(1, 8):
            event = listener.wait_events(count)[-1]
            made.append(event.samples.shape[0] // 960)
            end = event.first_sample + event.samples.shape[0]
            engine.report_position(handle, played * end / 24000)
            engine.acknowledge(handle, end)
        engine.cancel(handle)
    assert made == sizes


def test_an_utterance_without_tokens_ends_at_once() -> None:
    with support.running(simulated()) as engine:
        listener = support.Listener()
        engine.push(engine.open(support.voice(), listener), [], last=True)
        assert listener.wait().shape == (0,)
        (event,) = listener.events
        assert isinstance(event, AudioEvent)
        assert event.last


def test_an_idle_engine_still_counts_steps() -> None:
    with support.running(simulated(), limits=EngineLimits(heartbeat_s=0.001)) as engine:
        before = engine.steps
        support.wait_until(lambda: engine.steps > before + 3)


def test_a_busy_engine_counts_steps_within_a_batch() -> None:
    gate = Gate()
    with support.running(simulated(gate)) as engine:
        listener = support.speak(engine, support.voice(), support.speech(30))
        assert gate.asleep.wait(support.TIMEOUT)
        before = engine.steps
        gate.open()
        listener.wait()
        assert engine.steps >= before + SimulatedBackend.BEATS


def test_closing_fails_the_streams_that_are_open() -> None:
    listener = support.Listener()
    with support.running(simulated()) as engine:
        engine.open(support.voice(), listener)
        assert engine.alive
    assert not engine.alive
    (event,) = listener.events
    assert isinstance(event, FailedEvent)
    assert isinstance(event.error, EngineClosed)
    with pytest.raises(EngineClosed):
        engine.open(support.voice(), listener)
    engine.close()


def test_an_admitted_session_is_never_refused() -> None:
    limits = EngineLimits(max_streams=1, max_queue=1)
    with support.running(simulated(), limits=limits) as engine:
        first = engine.open(support.voice(place=Place("a")), support.Listener())
        following = support.speak(engine, support.voice(place=Place("a", admitted=True)), support.speech(30))
        returning = support.speak(engine, support.voice(place=Place("b", admitted=True)), support.speech(30))
        with pytest.raises(EngineFull, match="sessions are open"):
            engine.open(support.voice(place=Place("c")), support.Listener())
        following.wait()
        returning.wait()
        engine.cancel(first)


def test_two_utterances_of_a_session_take_one_place() -> None:
    with support.running(simulated(), limits=EngineLimits(max_streams=2)) as engine:
        handles = [engine.open(support.voice(place=Place("a", admitted=n > 0)), support.Listener()) for n in range(2)]
        handles.append(engine.open(support.voice(place=Place("b")), support.Listener()))
        with pytest.raises(EngineFull, match="2 sessions are open"):
            engine.open(support.voice(place=Place("c")), support.Listener())
        for handle in handles:
            engine.cancel(handle)
