"""Lost llm workers: killed, frozen, hung, full or wrong. Another one continues; no sample is repeated or missing."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from prometheus_client import REGISTRY

from lighttts.v1 import audio_pb2, llm_pb2, tts_pb2
from services.common.errors import InvalidInput, Overloaded, Unavailable
from tests.support.clock import ManualClock
from tests.support.fake_stages import (
    SAMPLES_PER_ID,
    Conversation,
    FakeLlm,
    Rig,
    Script,
    ids_of,
    rig,
    samples,
    until,
)
from tests.support.gateway_speech import config, expected, synthesize

TEXT = "A long sentence, it is."
Status = grpc.StatusCode


async def refused(r: Rig, text: str = TEXT) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await synthesize(r, text)
    return refusal.value


def first_of_each(r: Rig, **script: Any) -> None:
    """Directs the first call of every worker, whichever gets it."""
    for llm in r.llms:
        llm.scripts[0] = Script(**script)


@pytest.mark.parametrize("hop", range(4))
@pytest.mark.parametrize("end", ["dies", "falls silent", "stands still", "stops", "skips", "cuts it short"])
async def test_another_worker_continues_where_the_first_one_was_lost(hop: int, end: str) -> None:
    scripts: dict[str, dict[str, Any]] = {
        "dies": {"fail_at_hop": hop, "error": Unavailable("gone")},
        "falls silent": {"hold": {hop: asyncio.Event()}},
        "stands still": {"beats_at_hop": hop},
        "stops": {"stop_at_hop": hop},
        "skips": {"skip_at_hop": hop},
        "cuts it short": {"cut_at_hop": hop},
    }
    limits: dict[str, dict[str, Any]] = {
        "falls silent": {"llm_silence_seconds": 1.0},
        "stands still": {"llm_stall_seconds": 1.0},
    }
    clock = ManualClock()
    async with rig(llms=2, clock=clock, **limits.get(end, {})) as r, asyncio.TaskGroup() as tasks:
        r.llms[0].scripts[0] = Script(**scripts[end])
        if end in limits:
            tasks.create_task(give_up(r, hop, clock))
        while not r.llms[0].calls:  # the first turn of the pool is random
            events = await synthesize(r, TEXT)
        assert np.array_equal(samples(events), expected(TEXT))
        (lost,), went_on = r.llms[0].calls, r.llms[1].calls[-1]
        await until(lambda: lost.cancelled.is_set() or lost.ended.is_set())
        assert went_on.ids == lost.ids
        assert went_on.start.seed == lost.start.seed
        assert went_on.start.resume.next_sample == hop * FakeLlm.HOP_IDS * SAMPLES_PER_ID
        assert went_on.start.text_order == llm_pb2.TEXT_ORDER_WHOLE
        (resumed,) = [event.reason for event in events if isinstance(event, tts_pb2.Resumed)]
        assert "llm-1 continued" in resumed


async def give_up(r: Rig, hop: int, clock: ManualClock) -> None:
    """Advance the clock once the first worker has stopped at `hop`, until the pool counts its failure."""
    labels = {"pool": "llm", "worker": r.llm_servers[0].address, "reason": "stalled"}

    def failures() -> float:
        return REGISTRY.get_sample_value("lighttts_pool_failures_total", labels) or 0.0

    before = failures()  # of an earlier test, whose worker had the same port
    await until(lambda: bool(r.llm.calls) and r.llm.calls[0].hops == hop)
    await clock.advance_until(lambda: failures() > before)


async def test_repeated_audio_is_dropped() -> None:
    async with rig(llms=2) as r:
        for llm in r.llms:
            llm.scripts = {0: Script(fail_at_hop=2, error=Unavailable("gone"), repeat_samples=100)}
        events = await synthesize(r, TEXT)
        assert np.array_equal(samples(events), expected(TEXT))


async def test_a_slow_worker_is_kept() -> None:
    clock = ManualClock()
    async with rig(llms=2, clock=clock, llm_stall_seconds=1.0) as r:
        waiting = audio_pb2.Heartbeat.STATE_WAITING
        first_of_each(r, beats_at_hop=1, beating_steps=True)
        for llm in r.llms:
            llm.scripts[1] = Script(beats_at_hop=1, beating_state=waiting)
        calls = [asyncio.create_task(synthesize(r, TEXT)) for _ in range(4)]
        await clock.advance_until(
            lambda: all(len(llm.calls) == 2 and all(c.beats > 30 for c in llm.calls) for llm in r.llms)
        )
        for llm in r.llms:
            for call in llm.calls:
                call.script.beats_at_hop = None
        for events in await asyncio.gather(*calls):
            assert np.array_equal(samples(events), expected(TEXT))
        assert [len(llm.calls) for llm in r.llms] == [2, 2]


async def test_all_sessions_share_one_failover_budget() -> None:
    clock = ManualClock()
    async with rig(llms=2, clock=clock, llm_stall_seconds=1.0) as r:
        first_of_each(r, beats_at_hop=1)
        calls = [asyncio.create_task(synthesize(r, TEXT)) for _ in range(2)]
        await until(lambda: all(llm.calls and llm.calls[0].beats for llm in r.llms))
        await clock.advance_until(lambda: any(llm.calls[0].cancelled.is_set() for llm in r.llms))
        kept = next(llm.calls[0] for llm in r.llms if not llm.calls[0].cancelled.is_set())
        beats = kept.beats
        await clock.advance_until(lambda: kept.cancelled.is_set() or kept.beats > beats + 30)
        kept.script.beats_at_hop = None
        for events in await asyncio.gather(*calls):
            assert np.array_equal(samples(events), expected(TEXT))
        assert sum(len(llm.calls) for llm in r.llms) == 3, "half of the workers may be given up, so one of two"


async def test_a_full_worker_is_skipped_and_a_full_pool_is_reported() -> None:
    async with rig(llms=2) as r:
        r.llms[0].scripts = {n: Script(refusal=Overloaded("128 wait")) for n in range(9)}
        while not r.llms[0].calls:
            assert np.array_equal(samples(await synthesize(r, TEXT)), expected(TEXT))
        r.llms[1].scripts = {n: Script(refusal=Overloaded("128 wait")) for n in range(9)}
        error = await refused(r)
        assert error.code() == Status.RESOURCE_EXHAUSTED
        assert "every llm worker is full" in (error.details() or "")


async def test_a_refused_request_is_not_sent_to_another_worker() -> None:
    async with rig(llms=2) as r:
        first_of_each(r, fail_at_hop=0, error=InvalidInput("the text is not English", field="text"))
        assert (await refused(r)).code() == Status.INVALID_ARGUMENT
        assert sum(len(llm.calls) for llm in r.llms) == 1


async def test_an_utterance_that_no_worker_can_speak_ends_after_its_moves() -> None:
    async with rig(llms=2, llm_max_moves=1) as r:
        first_of_each(r, stop_at_hop=1)
        client = await Conversation(r, config()).begin()
        await client.text(TEXT)
        await client.next_of(audio_pb2.AudioChunk)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.rest()
        assert error.value.code() == Status.UNAVAILABLE
        assert "2 llm workers lost this utterance" in (error.value.details() or "")
        assert [len(llm.calls) for llm in r.llms] == [1, 1]
        audio = samples(client.events)
        assert np.array_equal(audio, expected(TEXT)[: len(audio)])


async def test_the_only_worker_is_used_again_when_it_serves_again() -> None:
    async with rig() as r:
        r.llm.scripts[0] = Script(stop_at_hop=2)
        assert np.array_equal(samples(await synthesize(r, TEXT)), expected(TEXT))
        assert len(r.llm.calls) == 2


async def test_the_client_gets_the_error_of_the_only_worker_if_it_stays_away() -> None:
    async with rig(worker_wait_seconds=0, session_patience_seconds=0) as r:
        r.llm.scripts[0] = Script(stop_at_hop=2)
        error = await refused(r)
        assert error.code() == Status.UNAVAILABLE
        assert "ended an utterance before its last audio" in (error.details() or "")


async def test_a_worker_that_cannot_serve_is_not_ejected() -> None:
    async with rig(session_patience_seconds=0) as r:
        r.llm.scripts[0] = Script(fail_at_hop=2, error=Unavailable("no decode worker"))
        error = await refused(r)
        assert (error.code(), error.details()) == (Status.UNAVAILABLE, "no decode worker")
        assert np.array_equal(samples(await synthesize(r, TEXT)), expected(TEXT))
        assert len(r.llm.calls) == 2


@pytest.mark.parametrize(("behind", "calls"), [("no decode worker is serving", 1), ("", 3)])
async def test_a_new_session_awaits_a_missing_decode_service_at_one_worker_only(behind: str, calls: int) -> None:
    async with rig(llms=3, behind=behind) as r:
        for llm in r.llms:
            llm.scripts[0] = Script(refusal=Unavailable("no decode worker"))
        await until(lambda: bool(r.gateway.unable()) == bool(behind))
        error = await refused(r)
        assert (error.code(), error.details()) == (Status.UNAVAILABLE, "no decode worker")
        assert sum(len(llm.calls) for llm in r.llms) == calls


async def test_a_killed_worker_loses_neither_the_current_nor_the_next_utterance() -> None:
    async with rig(llms=2) as r:
        release = asyncio.Event()
        first_of_each(r, hold={1: release})
        client = await Conversation(r).begin()
        await client.text("One is long. Two is also long.")
        await client.end()
        await until(lambda: all(llm.calls and llm.calls[0].hops == 1 for llm in r.llms))
        spoken = next(n for n, llm in enumerate(r.llms) if llm.calls[0].ids == ids_of("One is long."))
        await r.llm_servers[spoken].close()
        release.set()
        both = expected("One is long.", " Two is also long.")
        assert np.array_equal(samples(await client.rest()), both)


async def test_interleaved_text_continues_too() -> None:
    async with rig(llms=2, interleaved_text=True) as r:
        first_of_each(r, fail_at_hop=1, error=Unavailable("gone"))
        client = await Conversation(r).begin()
        await client.text("One two ")
        await until(lambda: any(llm.calls and llm.calls[0].ids for llm in r.llms))
        await client.text("three four.")
        for llm in r.llms:
            llm.scripts[0].fail_at_hop = None if not llm.calls else 1
        await client.end()
        assert np.array_equal(samples(await client.rest()), expected("One two three four."))
        orders = {call.start.text_order for llm in r.llms for call in llm.calls}
        assert orders == {llm_pb2.TEXT_ORDER_INTERLEAVED}
