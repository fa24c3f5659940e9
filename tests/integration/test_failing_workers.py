"""Workers that answer with an internal error: a stream moves once, and a request that fails everywhere ejects none."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import numpy as np
import pytest

from services.common.errors import Internal
from services.common.workers.failures import MEMORY_SECONDS, FailureLog
from tests.integration.test_gateway_failover import TEXT, refused
from tests.integration.test_llm_moves import first_worker, two_workers
from tests.support.decode_worker import DecodeWorker, StartWorker, audio_of
from tests.support.fake_stages import Rig, Script, rig, samples
from tests.support.gateway_speech import expected, synthesize
from tests.support.llm import Spoken, all_free, all_serving, llm_service, metric, refusal

BROKEN = Internal("out of memory")


def failures(worker: DecodeWorker) -> float:
    return metric("lighttts_pool_failures_total", pool="decode", worker=worker.address, reason="failed")


@pytest.mark.parametrize("after", [0, 1, 3])
async def test_an_internal_error_of_a_decode_worker_moves_the_utterance(
    worker: StartWorker, tmp_path: Path, after: int
) -> None:
    workers = await two_workers(worker)
    async with llm_service(tmp_path, *(made.address for made in workers), lead_seconds=2.0, decode_max_moves=0) as llm:
        lossy = await first_worker(workers, llm)
        saved = next(made for made in workers if made is not lossy)
        lossy.script.fail_after = after
        spoken = await llm.speak()
        await all_free()
    assert np.array_equal(spoken.samples, audio_of(saved.calls[0].tokens))
    assert [move.reason for move in spoken.moved] == ["failed"]
    assert bool(saved.calls[0].start.resume_record) == bool(after)


async def test_a_request_that_fails_at_a_second_worker_fails_and_ejects_none(
    worker: StartWorker, tmp_path: Path
) -> None:
    workers = [await worker(f"w{index}", fails_seeds=frozenset(range(100, 110))) for index in range(3)]
    async with llm_service(tmp_path, *(made.address for made in workers)) as llm:
        await all_serving([made.address for made in workers])
        for seed in range(100, 104):
            code, error = await refusal(llm.responses(Spoken(), seed=seed))
            assert code is grpc.StatusCode.INTERNAL
            assert isinstance(error, Internal)
            assert error.repeated, "the gateway must not move it again"
        await all_free()
        assert sum(len(made.calls) for made in workers) == 4 * 2
        assert (await llm.speak(seed=1)).done is not None
    assert sum(map(failures, workers)) == 0


async def test_a_worker_at_which_different_requests_fail_is_ejected(worker: StartWorker, tmp_path: Path) -> None:
    workers = await two_workers(worker)
    async with llm_service(tmp_path, *(made.address for made in workers)) as llm:
        lossy = await first_worker(workers, llm)
        lossy.script.fail_after = 1
        for seed in range(2):
            while not len(lossy.calls) > seed:
                assert (await llm.speak(seed=seed)).done is not None
        await all_free()
        assert failures(lossy) == 1
        assert metric("lighttts_pool_healthy", pool="decode", worker=lossy.address) == 0


async def test_the_only_worker_is_tried_a_second_time(worker: StartWorker, tmp_path: Path) -> None:
    only = await worker(fails_seeds=frozenset({7}))
    async with llm_service(tmp_path, only.address) as llm:
        code, error = await refusal(llm.responses(Spoken(), seed=7))
        assert code is grpc.StatusCode.INTERNAL
        assert "decoding failed" in error.message
        assert len(only.calls) == 2


def script_every_call(r: Rig, script: Script) -> None:
    for llm in r.llms:
        llm.scripts = dict.fromkeys(range(9), script)


async def test_an_internal_error_of_an_llm_worker_moves_the_utterance() -> None:
    async with rig(llms=2, llm_max_moves=0) as r:
        r.llms[0].scripts = {0: Script(fail_at_hop=1, error=BROKEN)}
        while not r.llms[0].calls:
            assert np.array_equal(samples(await synthesize(r, TEXT)), expected(TEXT))


async def test_the_client_gets_an_internal_error_after_two_workers_failed() -> None:
    async with rig(llms=3) as r:
        script_every_call(r, Script(fail_at_hop=1, error=BROKEN))
        for _ in range(3):
            error = await refused(r)
            assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "out of memory")
        assert sum(len(llm.calls) for llm in r.llms) == 3 * 2
        script_every_call(r, Script())
        await asyncio.gather(*(synthesize(r, TEXT) for _ in range(3)))
        assert [len(llm.calls) for llm in r.llms] == [3, 3, 3], "none of them was ejected"


async def test_a_failure_that_two_decode_workers_had_is_not_tried_at_another_llm_worker() -> None:
    async with rig(llms=2) as r:
        script_every_call(r, Script(fail_at_hop=0, error=Internal("decoding failed", repeated=True)))
        assert (await refused(r)).code() is grpc.StatusCode.INTERNAL
        assert sum(len(llm.calls) for llm in r.llms) == 1


def test_failures_that_are_far_apart_are_not_evidence() -> None:
    now = [0.0]
    log = FailureLog(lambda: now[0])
    assert not log.add("a")
    assert not log.add("b")
    now[0] += MEMORY_SECONDS
    assert not log.add("a")
    assert log.add("a")
    assert not log.add("a"), "the count starts again after an ejection"


def test_workers_that_are_gone_are_forgotten() -> None:
    now = [0.0]
    log = FailureLog(lambda: now[0])
    for number in range(100):
        log.add(f"worker-{number}")
        now[0] += MEMORY_SECONDS / 10
    assert len(log) <= 10
