"""Utterances that lose their decode worker: the listener gets every sample once in every case."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from lighttts.v1 import audio_pb2
from services.common.errors import InvalidInput, Overloaded, Unavailable
from tests.support.clock import ManualClock
from tests.support.decode_worker import DecodeWorker, StartWorker, audio_of
from tests.support.llm import (
    SPEECH_TOKENS,
    TEXT,
    Llm,
    Spoken,
    all_free,
    all_serving,
    llm_service,
    metric,
    refusal,
    until,
)

LIMITS = {
    "silent_after": {"decode_silence_seconds": 1.0, "decode_frozen_seconds": 0},
    "stand_still_after": {"decode_silence_seconds": 100.0, "decode_stall_seconds": 1.0, "decode_frozen_seconds": 0},
}
"""Seconds of the test's clock after which a worker that stops in mid-sentence is given up."""


async def give_up(lossy: DecodeWorker, after: int, clock: ManualClock) -> None:
    """Advance the clock once the worker has stopped, until the pool counts its failure."""

    def failures() -> float:
        return metric("lighttts_pool_failures_total", pool="decode", worker=lossy.address, reason="stalled")

    before = failures()  # of an earlier test, whose worker had the same port
    await until(lambda: bool(lossy.calls) and lossy.calls[0].audio_messages == after)
    await clock.advance_until(lambda: failures() > before)


async def first_worker(workers: list[DecodeWorker], llm: Llm) -> DecodeWorker:
    """Return the worker of the next utterance; a short utterance shows it, as workers are used in order of address."""
    await all_serving([made.address for made in workers])
    await llm.speak(TEXT[:1])
    spoke = next(index for index, worker in enumerate(workers) if worker.calls)
    workers[spoke].calls.clear()
    return workers[(spoke + 1) % len(workers)]


async def two_workers(worker: StartWorker) -> list[DecodeWorker]:
    return sorted([await worker("a"), await worker("b")], key=lambda made: made.address)


@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.parametrize(
    ("cue", "reason"),
    [
        ("die_after", "died"),
        ("silent_after", "silent"),
        ("stand_still_after", "stalled"),
        ("hand_over_after", "draining"),
        ("end_after", "broke protocol"),
        ("skip_after", "broke protocol"),
        ("claim_last_after", "broke protocol"),
    ],
)
async def test_a_lost_utterance_goes_on_elsewhere(
    worker: StartWorker, tmp_path: Path, cue: str, reason: str, after: int
) -> None:
    workers, clock = await two_workers(worker), ManualClock()
    # A rolling restart may reach each worker that a long utterance moves to: leaving them uses up no moves.
    limits = {"decode_max_moves": int(reason != "draining"), **LIMITS.get(cue, {})}
    # This lead lets the last token be generated only after the fourth audio, so that none is `last` before the loss.
    async with llm_service(
        tmp_path, *(made.address for made in workers), lead_seconds=2.0, clock=clock, **limits
    ) as llm:
        lossy = await first_worker(workers, llm)
        saved = next(made for made in workers if made is not lossy)
        for made in workers:
            made.script.needs_voice = True
        setattr(lossy.script, cue, after)
        moves = metric("lighttts_llm_decode_moves_total", reason=reason, outcome="moved")
        async with asyncio.TaskGroup() as tasks:
            speaking = tasks.create_task(llm.speak())
            if cue in LIMITS:
                tasks.create_task(give_up(lossy, after, clock))
        spoken = speaking.result()
        await all_free()
        await lossy.calls[0].ended.wait()
    taken = saved.calls[-1]  # a draining worker is left only once another one has accepted a call
    assert np.array_equal(spoken.samples, audio_of(taken.tokens))
    assert spoken.raw_ids == taken.tokens
    assert len(spoken.raw_ids) == SPEECH_TOKENS
    assert bool(taken.start.resume_record) == bool(after)
    assert taken.hops[0][0] == 0
    assert [(move.from_worker, move.to_worker, move.reason) for move in spoken.moved] == [
        (lossy.name, saved.name, reason)
    ]
    assert [started.decode_worker for started in spoken.started] == [lossy.name, saved.name]
    assert spoken.done is not None
    assert spoken.done.decode_worker == saved.name
    assert metric("lighttts_llm_decode_moves_total", reason=reason, outcome="moved") == moves + 1


@pytest.mark.parametrize("after", [0, 1, 3])
async def test_an_end_before_all_tokens_are_spoken_is_not_believed(
    worker: StartWorker, tmp_path: Path, after: int
) -> None:
    workers = await two_workers(worker)
    async with llm_service(tmp_path, *(made.address for made in workers), lead_seconds=30.0) as llm:
        lossy = await first_worker(workers, llm)
        saved = next(made for made in workers if made is not lossy)
        lossy.script.cut_short_after = after
        spoken = await llm.speak()
    assert lossy.calls[0].last
    assert len(lossy.calls[0].tokens) == SPEECH_TOKENS
    assert np.array_equal(spoken.samples, audio_of(saved.calls[0].tokens))
    assert [move.reason for move in spoken.moved] == ["broke protocol"]


@pytest.mark.parametrize("overlap", [1, 25, 1000])
async def test_audio_sent_again_after_a_move_is_dropped(worker: StartWorker, tmp_path: Path, overlap: int) -> None:
    workers = await two_workers(worker)
    async with llm_service(tmp_path, *(made.address for made in workers)) as llm:
        lossy = await first_worker(workers, llm)
        saved = next(made for made in workers if made is not lossy)
        lossy.script.die_after = 2
        saved.script.overlap = overlap
        spoken = await llm.speak()
    assert np.array_equal(spoken.samples, audio_of(saved.calls[0].tokens))
    assert len(saved.calls[0].tokens) == SPEECH_TOKENS


async def test_a_killed_workers_utterances_all_move(worker: StartWorker, tmp_path: Path) -> None:
    workers = await two_workers(worker)
    gate = asyncio.Event()
    for made in workers:
        made.script.gate = gate
    async with llm_service(tmp_path, *(made.address for made in workers)) as llm:
        await all_serving([made.address for made in workers])
        speaking = [asyncio.create_task(llm.speak(seed=seed)) for seed in range(6)]
        await until(lambda: [len(made.calls) for made in workers] == [3, 3])
        await workers[0].stop()
        gate.set()
        spoken = await asyncio.gather(*speaking)
        alone = [await llm.speak(seed=seed) for seed in range(6)]
        await all_free()
    assert sum(len(one.moved) for one in spoken) == 3
    for one, other in zip(spoken, alone, strict=True):
        assert np.array_equal(one.samples, other.samples)
    assert len(workers[0].calls) == 3  # later utterances do not try it


async def test_an_utterance_moves_as_often_as_it_may(worker: StartWorker, tmp_path: Path) -> None:
    workers = [await worker(f"w{index}", die_after=1) for index in range(4)]
    addresses = [made.address for made in workers]
    async with llm_service(tmp_path, *addresses, decode_max_moves=2) as llm:
        await all_serving(addresses)
        spoken = Spoken()
        code, error = await refusal(llm.responses(spoken))
        await all_free()
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "3 decode workers lost this utterance; the decode worker was lost (died); try again" in error.message
    assert "killed" not in error.message, "the transport's own words are for the log"
    assert error.retry_after == 1.0
    assert len(spoken.moved) == 2
    assert sum(len(made.calls) for made in workers) == 3


async def test_a_full_worker_is_passed_over(worker: StartWorker, tmp_path: Path) -> None:
    full = (grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
    workers = [await worker(f"w{index}", refusal=full) for index in range(5)] + [await worker("free")]
    async with llm_service(tmp_path, *(made.address for made in workers), decode_max_moves=1) as llm:
        await all_serving([made.address for made in workers])
        for _ in range(3):
            spoken = await llm.speak()
            assert [started.decode_worker for started in spoken.started] == ["free"]
            assert not spoken.moved  # it had begun nowhere else
        workers[-1].script.refusal = full
        code, error = await refusal(llm.responses(Spoken()))
        await all_free()
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert isinstance(error, Overloaded)
    assert "every decode worker is full" in error.message
    assert error.retry_after == 1.0


async def test_workers_that_were_lost_are_asked_again_when_no_other_serves(worker: StartWorker, tmp_path: Path) -> None:
    workers = await two_workers(worker)
    async with llm_service(tmp_path, *(made.address for made in workers), lead_seconds=2.0) as llm:
        first = await first_worker(workers, llm)
        second = next(made for made in workers if made is not first)
        first.script.die_after = second.script.die_after = 1
        speaking = asyncio.create_task(llm.speak())
        await until(lambda: bool(second.calls))
        first.script.die_after = None
        spoken = await speaking
    assert [(move.from_worker, move.to_worker) for move in spoken.moved] == [
        (first.name, second.name),
        (second.name, first.name),
    ]
    assert np.array_equal(spoken.samples, audio_of(first.calls[1].tokens))


async def test_a_worker_that_was_full_is_asked_again_once_another_has_spoken(
    worker: StartWorker, tmp_path: Path
) -> None:
    workers = await two_workers(worker)
    async with llm_service(tmp_path, *(made.address for made in workers), lead_seconds=2.0) as llm:
        full = await first_worker(workers, llm)
        other = next(made for made in workers if made is not full)
        full.script.refusal = (grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        other.script.die_after = 1
        speaking = asyncio.create_task(llm.speak())
        await until(lambda: bool(other.calls))
        full.script.refusal = None
        spoken = await speaking
    assert [(move.from_worker, move.to_worker, move.reason) for move in spoken.moved] == [
        (other.name, full.name, "died")
    ]
    assert np.array_equal(spoken.samples, audio_of(full.calls[1].tokens))


async def test_an_utterance_that_a_worker_had_accepted_waits_for_full_workers(
    worker: StartWorker, tmp_path: Path
) -> None:
    workers = await two_workers(worker)
    async with llm_service(tmp_path, *(made.address for made in workers), lead_seconds=2.0) as llm:
        full = await first_worker(workers, llm)
        other = next(made for made in workers if made is not full)
        before = len(full.calls)
        full.script.refusal = (grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        other.script.die_after = 1
        speaking = asyncio.create_task(llm.speak())
        await until(lambda: bool(other.calls))
        other.script.refusal = full.script.refusal  # from its next call on
        await until(lambda: len(full.calls) >= before + 4)
        full.script.refusal = None
        spoken = await speaking
        await all_free()
    assert np.array_equal(spoken.samples, audio_of(full.calls[-1].tokens))
    assert all(call.start.place.admitted for call in full.calls[before + 1 :])


async def test_an_utterance_of_an_admitted_session_waits_and_one_of_a_new_session_does_not(
    worker: StartWorker, tmp_path: Path
) -> None:
    only = await worker()
    only.script.refusal = (grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
    place = audio_pb2.SessionPlace(session="s", admitted=True)
    async with llm_service(tmp_path, only.address) as llm:
        code, error = await refusal(llm.responses(Spoken(), place=audio_pb2.SessionPlace(session="new")))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert isinstance(error, Overloaded)
        assert (error.stage, error.message) == ("decode", "every decode worker is full; try again shortly")
        refused = len(only.calls)
        speaking = asyncio.create_task(llm.speak(place=place))
        await until(lambda: len(only.calls) >= refused + 3)
        only.script.refusal = None
        spoken = await speaking
        await all_free()
    assert np.array_equal(spoken.samples, audio_of(only.calls[-1].tokens))


async def test_without_workers_an_utterance_is_refused(worker: StartWorker, tmp_path: Path) -> None:
    gone = await worker()
    await gone.stop()
    async with llm_service(tmp_path, gone.address, decode_wait_seconds=0.1) as llm:
        code, error = await refusal(llm.responses(Spoken()))
        await all_free()
    assert code is grpc.StatusCode.UNAVAILABLE
    assert isinstance(error, Unavailable)
    assert "no decode worker can take this now" in error.message
    assert error.retry_after == 1.0


async def test_the_last_worker_lost_is_unavailable(worker: StartWorker, tmp_path: Path) -> None:
    only = await worker(die_after=1)
    async with llm_service(tmp_path, only.address, decode_wait_seconds=0.1, decode_patience_seconds=0) as llm:
        await all_serving([only.address])
        spoken = Spoken()
        code, _ = await refusal(llm.responses(spoken))
        await all_free()
    assert code is grpc.StatusCode.UNAVAILABLE
    assert len(spoken.audio) == 1


async def test_a_draining_worker_that_is_the_last_one_speaks_on(worker: StartWorker, tmp_path: Path) -> None:
    only = await worker(hand_over_after=1, speaks_on=True)
    async with llm_service(tmp_path, only.address, decode_wait_seconds=0.1) as llm:
        await all_serving([only.address])
        spoken = await llm.speak()
        await all_free()
    assert np.array_equal(spoken.samples, audio_of(only.calls[0].tokens))
    assert not spoken.moved


async def test_a_workers_final_refusal_reaches_the_client(worker: StartWorker, tmp_path: Path) -> None:
    workers = await two_workers(worker)
    for made in workers:
        made.script.refusal = (grpc.StatusCode.INVALID_ARGUMENT, "speed 9 is out of range; send 0.5 to 2")
    async with llm_service(tmp_path, *(made.address for made in workers)) as llm:
        code, error = await refusal(llm.responses(Spoken(), speed=9.0))
        await all_free()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert isinstance(error, InvalidInput)
    assert error.message == "speed 9 is out of range; send 0.5 to 2"
    assert sum(len(made.calls) for made in workers) == 1


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_utterances_are_split_evenly(worker: StartWorker, tmp_path: Path, count: int) -> None:
    workers = [await worker(f"w{index}") for index in range(count)]
    async with llm_service(tmp_path, *(made.address for made in workers)) as llm:
        await all_serving([made.address for made in workers])
        spoken = await asyncio.gather(*(llm.speak(seed=seed) for seed in range(12)))
    assert Counter(one.started[0].decode_worker for one in spoken) == {made.name: 12 // count for made in workers}
    assert len({tuple(one.raw_ids) for one in spoken}) == 12


@pytest.mark.parametrize("moment", ["queued", "before audio", "while audio flows"])
async def test_a_client_that_leaves_frees_everything(worker: StartWorker, tmp_path: Path, moment: str) -> None:
    gate = asyncio.Event()
    decode = await worker(gate=gate)
    options: dict[str, Any] = {"lead_seconds": 2.0, "max_running": 1}
    async with llm_service(tmp_path, decode.address, **options) as llm:
        if moment == "queued":
            other = Spoken()
            playing = llm.responses(other)
            await anext(playing)
            await until(lambda: len(decode.calls) == 1 and bool(decode.calls[0].hops))
        if moment == "while audio flows":
            gate.set()
        spoken = Spoken()
        async with aclosing(llm.responses(spoken, tuple(range(5, 205)))) as responses:
            async for _ in responses:
                if spoken.audio if moment == "while audio flows" else "started" in spoken.kinds:
                    break
        call = decode.calls[-1]
        await call.ended.wait()
        assert call.cancelled
        assert not call.last
        if moment == "queued":
            gate.set()
            async for _ in playing:
                pass
            assert np.array_equal(other.samples, audio_of(decode.calls[0].tokens))
        await all_free()
        gate.set()
        assert (await llm.speak()).done is not None


@pytest.mark.parametrize("most", [0.5, 100.0])
async def test_the_next_worker_learns_when_the_listener_runs_dry(
    worker: StartWorker, tmp_path: Path, most: float
) -> None:
    workers, clock = await two_workers(worker), ManualClock()
    options: dict[str, Any] = {"lead_seconds": 2.0, "first_audio_target_seconds": most}
    async with llm_service(tmp_path, *(made.address for made in workers), clock=clock, **options) as llm:
        lossy = await first_worker(workers, llm)
        saved = next(made for made in workers if made is not lossy)
        lossy.script.die_after = 3
        spoken = await llm.speak()
    delivered = sum(len(chunk) for chunk in spoken.chunks[:3]) / 24000
    assert lossy.calls[0].start.urgency.first_audio_target == 0, "the worker's default"
    assert saved.calls[0].start.urgency.first_audio_target == pytest.approx(min(most, delivered))


async def test_the_first_audio_of_a_session_in_line_becomes_more_urgent(worker: StartWorker, tmp_path: Path) -> None:
    decode, clock = await worker(), ManualClock()
    async with llm_service(tmp_path, decode.address, clock=clock) as llm:
        await all_serving([decode.address])
        decode.script.refusal = (grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        place = audio_pb2.SessionPlace(session="one", admitted=True)
        urgency = audio_pb2.Urgency(first_audio_target=5.0)
        speaking = asyncio.create_task(llm.speak(place=place, urgency=urgency))
        await until(lambda: len(decode.calls) > 1)
        clock.now += 3.0
        known = len(decode.calls)
        await until(lambda: len(decode.calls) > known + 1)
        clock.now += 10.0
        await until(lambda: decode.calls[-1].start.urgency.first_audio_target < 0.1)
        decode.script.refusal = None
        await speaking
    targets = [call.start.urgency.first_audio_target for call in decode.calls]
    assert all(2.0 < target <= 5.0 for target in targets[:known])
    assert 0 < targets[known] <= 2.0 or 0 < targets[known + 1] <= 2.0
    assert targets[-1] > 0, "0 is the worker's default"
