"""The llm engine through its public methods: the same tokens in every batch, and no leak in any case."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.checkpoint.model_dir import ModelDir
from services.common.engine.places import Place
from services.common.engine.shell import EngineClosed, EngineFull
from services.llm.engine.backends import NonFiniteLogits
from services.llm.engine.layout import Prompt, RequestError
from services.llm.engine.scheduler import EngineLimits, ScheduledSequence
from services.llm.engine.sequence import Event, Request, SamplingOptions
from services.llm.model.model import SpeechLM, load_speech_lm
from services.llm.model.torch_backend import TorchBackend
from tests.unit.llm.llm_support import PATIENCE_S, Listener, MakeEngine, run, utterance

UTTERANCES = [utterance(number) for number in range(7)]
UTTERANCES.append(Request(tuple(range(12)), sampling=SamplingOptions(seed=7), text_order="interleaved", max_seconds=1))


class GatedBackend(TorchBackend):
    """A backend whose steps wait for permission and are counted."""

    def __init__(self, model: SpeechLM) -> None:
        super().__init__(model)
        self.batches: list[list[ScheduledSequence]] = []
        self.started = threading.Semaphore(0)
        self.permits = threading.Semaphore(0)

    def step(self, batch: Sequence[ScheduledSequence]) -> list[Sequence[int]]:
        self.batches.append(list(batch))
        self.started.release()
        assert self.permits.acquire(timeout=PATIENCE_S)
        return super().step(batch)

    def wait_for_step(self) -> None:
        assert self.started.acquire(timeout=PATIENCE_S)

    def open(self) -> None:
        self.permits.release(10_000)


@pytest.fixture(scope="module")
def alone(make_engine: MakeEngine) -> list[tuple[int, ...]]:
    """The tokens of each utterance alone."""
    with make_engine() as engine:
        return [run(engine, request).raw_ids for request in UTTERANCES]


@settings(max_examples=8)
@given(
    order=st.permutations(range(len(UTTERANCES))),
    gaps=st.lists(st.integers(0, 6), min_size=len(UTTERANCES), max_size=len(UTTERANCES)),
    limits=st.builds(
        EngineLimits,
        max_running=st.integers(1, 8),
        total_tokens=st.integers(96, 400),
        max_request_tokens=st.just(96),
        prefill_tokens=st.integers(1, 64),
        admission_interval=st.integers(1, 4),
        block_size=st.sampled_from([1, 4, 16]),
    ),
)
def test_batches_and_arrival_do_not_change_tokens(
    make_engine: MakeEngine, alone: list[tuple[int, ...]], order: list[int], gaps: list[int], limits: EngineLimits
) -> None:
    with make_engine(limits) as engine:
        listeners: dict[int, Listener] = {}
        previous: Listener | None = None
        for number, gap in zip(order, gaps, strict=True):
            if previous is not None:
                previous.wait_for_tokens(min(gap, len(alone[order[len(listeners) - 1]])))
            previous = listeners[number] = Listener()
            engine.submit(UTTERANCES[number], previous)
        assert [listeners[number].wait().raw_ids for number in range(len(UTTERANCES))] == alone


def test_preempted_sequences_continue_as_if_undisturbed(
    make_engine: MakeEngine, mini_model: SpeechLM, alone: list[tuple[int, ...]]
) -> None:
    backend = GatedBackend(mini_model)
    limits = EngineLimits(total_tokens=96, max_request_tokens=96, block_size=4)
    with make_engine(limits, backend) as engine:
        listeners = [Listener() for _ in UTTERANCES]
        for request, listener in zip(UTTERANCES, listeners, strict=True):
            engine.submit(request, listener)
        backend.open()
        assert [listener.wait().raw_ids for listener in listeners] == alone
        assert engine.stats().preemptions > 0


@pytest.mark.parametrize("number", [3, 6])
def test_resuming_at_any_cut_continues_identically(
    make_engine: MakeEngine, alone: list[tuple[int, ...]], number: int
) -> None:
    whole = alone[number]
    with make_engine() as engine:
        for cut in range(len(whole) + 1):
            resumed = run(engine, replace(UTTERANCES[number], resume_ids=whole[:cut]))
            assert resumed.raw_ids == whole[cut:], f"cut at {cut}"
            assert resumed.finish_reason is not None


def test_cancel_takes_effect_before_the_next_step(make_engine: MakeEngine, mini_model: SpeechLM) -> None:
    backend = GatedBackend(mini_model)
    with make_engine(backend=backend) as engine:
        cancelled, other = Listener(), Listener()
        handle = engine.submit(UTTERANCES[5], cancelled)
        backend.wait_for_step()
        engine.submit(UTTERANCES[6], other)
        engine.cancel(handle)
        engine.cancel(handle)
        backend.open()
        other.wait()
        engine.cancel(handle)
        assert cancelled.events == []
        assert all(scheduled.sequence.request != UTTERANCES[5] for batch in backend.batches[1:] for scheduled in batch)
    assert (engine.stats().cancelled, engine.stats().finished) == (1, 1)


def test_random_cancels_leave_the_others_alone(make_engine: MakeEngine, alone: list[tuple[int, ...]]) -> None:
    rng = random.Random(5)
    with make_engine(EngineLimits(max_running=6, total_tokens=240, max_request_tokens=96)) as engine:
        kept: list[tuple[int, Listener]] = []
        doomed = []
        for _ in range(100):
            number, listener = rng.randrange(len(UTTERANCES)), Listener()
            handle = engine.submit(UTTERANCES[number], listener)
            if rng.random() < 0.7:
                doomed.append(handle)
            else:
                kept.append((number, listener))
            if doomed and rng.random() < 0.7:
                engine.cancel(doomed.pop(rng.randrange(len(doomed))))
        for handle in doomed:
            engine.cancel(handle)
        for number, listener in kept:
            assert listener.wait().raw_ids == alone[number]


def test_a_full_engine_refuses_and_recovers(make_engine: MakeEngine, mini_model: SpeechLM) -> None:
    backend = GatedBackend(mini_model)
    with make_engine(EngineLimits(max_running=1, max_waiting=1), backend) as engine:
        first, second, third = Listener(), Listener(), Listener()
        engine.submit(UTTERANCES[1], first)
        handle = engine.submit(UTTERANCES[2], second)
        with pytest.raises(EngineFull, match="2 sessions"):
            engine.submit(UTTERANCES[3], third)
        engine.cancel(handle)
        engine.submit(UTTERANCES[3], third)  # although the engine thread has not taken the cancel yet
        backend.open()
        first.wait()
        assert third.wait().finish_reason is not None


def test_not_a_number_fails_its_own_sequence_alone(
    make_engine: MakeEngine, mini_dir: ModelDir, alone: list[tuple[int, ...]]
) -> None:
    poisoned = load_speech_lm(mini_dir)
    with torch.no_grad():
        poisoned.llm.model.model.embed_tokens.weight[399] = math.nan
    limits = EngineLimits(total_tokens=400, max_request_tokens=96, block_size=4)
    with make_engine(limits, TorchBackend(poisoned)) as engine:
        listeners = [Listener() for _ in UTTERANCES]
        bad = [Listener() for _ in UTTERANCES]
        for request, listener, bad_listener in zip(UTTERANCES, listeners, bad, strict=True):
            engine.submit(Request((399, 1, 2)), bad_listener)
            engine.submit(request, listener)
        assert all(isinstance(listener.wait().error, NonFiniteLogits) for listener in bad)
        # Blocks that the failed sequences left full of NaN are in use again by now.
        assert [listener.wait().raw_ids for listener in listeners] == alone
        assert engine.stats().failed == len(bad)


def test_a_listener_that_raises_loses_its_own_stream(make_engine: MakeEngine, alone: list[tuple[int, ...]]) -> None:
    def broken(event: Event) -> None:
        raise RuntimeError("the client is gone")

    with make_engine() as engine:
        listener = Listener()
        engine.submit(UTTERANCES[2], broken)
        engine.submit(UTTERANCES[3], listener)
        assert listener.wait().raw_ids == alone[3]
        assert run(engine, UTTERANCES[4]).raw_ids == alone[4]
        assert engine.stats().failed == 1


def test_a_token_budget_holds_generation_until_it_is_raised(
    make_engine: MakeEngine, alone: list[tuple[int, ...]]
) -> None:
    with make_engine(EngineLimits(max_running=1)) as engine:
        slow = Listener()
        handle = engine.submit(replace(UTTERANCES[5], max_tokens=3), slow)
        slow.wait_for_tokens(3)
        # The held sequence does not keep other sequences from running.
        assert run(engine, UTTERANCES[6]).raw_ids == alone[6]
        assert slow.raw_ids == alone[5][:3]
        engine.set_max_tokens(handle, 5)
        slow.wait_for_tokens(5)
        engine.set_max_tokens(handle, None)
        assert slow.wait().raw_ids == alone[5]
        with pytest.raises(RequestError, match="max_tokens"):
            engine.set_max_tokens(handle, -1)


def test_the_lowest_temperatures_draw_the_most_probable_ids(make_engine: MakeEngine) -> None:
    request = UTTERANCES[5]
    cold, frozen = (
        replace(request, sampling=replace(request.sampling, temperature=temperature)) for temperature in (1e-5, 1e-38)
    )
    with make_engine() as engine:
        assert run(engine, frozen).raw_ids == run(engine, cold).raw_ids


def test_text_that_arrives_in_pieces_is_the_same_text(make_engine: MakeEngine, alone: list[tuple[int, ...]]) -> None:
    with make_engine() as engine:
        listener = Listener()
        request = UTTERANCES[6]
        handle = engine.submit(replace(request, text_ids=request.text_ids[:2], text_complete=False), listener)
        engine.append_text(handle, request.text_ids[2:])
        engine.end_text(handle)
        engine.end_text(handle)
        assert listener.wait().raw_ids == alone[6]
        with pytest.raises(RequestError, match="text id 640"):
            engine.append_text(handle, [640])


def test_text_after_its_end_and_no_text_at_all_are_errors(make_engine: MakeEngine) -> None:
    with make_engine() as engine:
        late, empty, long = Listener(), Listener(), Listener()
        handle = engine.submit(replace(UTTERANCES[6], max_tokens=0), late)
        engine.append_text(handle, [1])
        assert isinstance(late.wait().error, RequestError)
        handle = engine.submit(Request((), text_complete=False), empty)
        engine.end_text(handle)
        assert "empty" in str(empty.wait().error)
        handle = engine.submit(Request((), text_complete=False), long)
        engine.append_text(handle, [1] * 5000)
        assert "split the text" in str(long.wait().error)


@pytest.mark.parametrize("prompt_speech", [0, 20])
def test_interleaved_text_in_any_pieces_and_from_any_cut(make_engine: MakeEngine, prompt_speech: int) -> None:
    text = tuple(range(30, 53))
    prompt = Prompt((1, 2, 3), tuple(range(prompt_speech)))
    request = Request(text, prompt, SamplingOptions(seed=4), text_order="interleaved", max_seconds=3)
    with make_engine() as engine:
        whole = run(engine, request)
        assert whole.raw_ids.count(6563) >= 3
        assert whole.ids == tuple(i for i in whole.raw_ids if i < 6561)
        pieces = Listener()
        handle = engine.submit(replace(request, text_ids=text[:1], text_complete=False), pieces)
        for token in text[1:]:
            engine.append_text(handle, [token])
        engine.end_text(handle)
        assert pieces.wait().raw_ids == whole.raw_ids
        for cut in range(0, len(whole.raw_ids) + 1, 7):
            resumed = run(engine, replace(request, resume_ids=whole.raw_ids[:cut]))
            assert resumed.raw_ids == whole.raw_ids[cut:], f"cut at {cut}"


def test_closing_fails_live_requests_and_refuses_new_ones(make_engine: MakeEngine) -> None:
    with make_engine() as engine:
        listener = Listener()
        engine.submit(replace(UTTERANCES[5], max_tokens=0), listener)
        assert engine.alive
        engine.close()
        assert isinstance(listener.error, EngineClosed)
        assert not engine.alive
        with pytest.raises(EngineClosed):
            engine.submit(UTTERANCES[1], Listener())


def test_an_idle_engine_keeps_turning(make_engine: MakeEngine) -> None:
    with make_engine(EngineLimits(heartbeat_s=0.001)) as engine:
        before, pause = engine.steps, threading.Event()
        assert any(engine.steps > before + 2 or pause.wait(0.001) for _ in range(10_000))


BAD = {
    "empty": replace(UTTERANCES[1], text_ids=()),
    "text id 640": replace(UTTERANCES[1], text_ids=(640,)),
    "text id -1": replace(UTTERANCES[1], text_ids=(-1,)),
    "prompt text id": replace(UTTERANCES[1], prompt=Prompt((10**9,))),
    "prompt speech id 6561": replace(UTTERANCES[1], prompt=Prompt((), (6561,))),
    "resume id 6563": replace(UTTERANCES[1], resume_ids=(6563,)),
    "resume_ids go beyond": replace(UTTERANCES[1], text_complete=False, resume_ids=(1,)),
    "resume_ids.12. must be 6563": replace(
        UTTERANCES[1], text_order="interleaved", text_ids=(1,) * 9, resume_ids=(1,) * 16
    ),
    "seed": replace(UTTERANCES[1], sampling=SamplingOptions(seed=2**64)),
    "temperature": replace(UTTERANCES[1], sampling=SamplingOptions(temperature=math.nan)),
    "top_p": replace(UTTERANCES[1], sampling=SamplingOptions(top_p=1.5)),
    "top_k": replace(UTTERANCES[1], sampling=SamplingOptions(top_k=0)),
    "win_size": replace(UTTERANCES[1], sampling=SamplingOptions(win_size=-1)),
    "tau_r": replace(UTTERANCES[1], sampling=SamplingOptions(tau_r=-math.inf)),
    "max_seconds": replace(UTTERANCES[1], max_seconds=math.inf),
    "speed": replace(UTTERANCES[1], speed=math.nan),
    "max_tokens": replace(UTTERANCES[1], max_tokens=-1),
    "play_at": replace(UTTERANCES[1], play_at=math.nan),
    "split the text": replace(UTTERANCES[1], text_ids=(1,) * 5000),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_requests_are_refused_with_a_reason(make_engine: MakeEngine, message: str) -> None:
    with make_engine() as engine, pytest.raises(RequestError, match=message):
        engine.submit(BAD[message], Listener())


def test_limits_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="max_request_tokens"):
        EngineLimits(total_tokens=100, max_request_tokens=200)
    with pytest.raises(ValueError, match="at least 1"):
        EngineLimits(block_size=0)
    with pytest.raises(ValueError, match="max_waiting"):
        EngineLimits(max_waiting=-1)


def test_interleaved_text_may_end_within_the_prompts_speech(make_engine: MakeEngine) -> None:
    """Its only block of text is next to the first prompt speech; the text is not empty."""
    prompt = Prompt((), tuple(range(20)))
    with make_engine() as engine:
        whole = run(engine, Request((1, 2, 3, 4, 5), prompt, text_order="interleaved", max_seconds=1))
        assert whole.finish_reason is not None
        empty = Listener()
        handle = engine.submit(Request((), prompt, text_complete=False, text_order="interleaved"), empty)
        engine.end_text(handle)
        assert "empty" in str(empty.wait().error)


def test_an_admitted_session_queues_where_a_new_one_is_refused(make_engine: MakeEngine, mini_model: SpeechLM) -> None:
    backend = GatedBackend(mini_model)
    with make_engine(EngineLimits(max_running=1, max_waiting=1), backend) as engine:
        listeners = [Listener() for _ in range(4)]
        places = [Place("a"), Place("b"), Place("a", admitted=True), Place("gone before", admitted=True)]
        for listener, place in zip(listeners, places, strict=True):
            engine.submit(replace(UTTERANCES[1], place=place), listener)
        with pytest.raises(EngineFull, match="3 sessions"):
            engine.submit(replace(UTTERANCES[1], place=Place("c")), Listener())
        backend.open()
        for listener in listeners:
            listener.wait()
