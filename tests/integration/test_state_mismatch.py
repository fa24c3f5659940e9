"""Rolling upgrades: state that moves to a worker of other weights or of another version fits or is refused cleanly."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import services.decode.server
import services.llm.server
from lighttts.v1 import audio_pb2, llm_pb2
from services.common.errors import InvalidInput, LightTtsError, NotFound, StateMismatch, Unavailable
from tests.integration.test_decode_service import decode_service, responses, start, tokens
from tests.integration.test_decode_service import refusal as decode_refusal
from tests.integration.test_gateway_failover import TEXT, first_of_each
from tests.integration.test_llm_moves import first_worker, two_workers
from tests.support.decode_worker import StartWorker, audio_of
from tests.support.fake_stages import Conversation, Rig, Script, rig, samples, until
from tests.support.gateway_speech import config, expected
from tests.support.llm import Spoken, all_free, llm_service, refusal

LATER = 9
"""More calls than a test makes."""


def weights(monkeypatch: pytest.MonkeyPatch, module: Any, value: int) -> None:
    monkeypatch.setattr(module, "weights_hash", lambda *files: bytes([value]) * 16)


async def test_a_decode_worker_refuses_records_of_other_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights(monkeypatch, services.decode.server, 1)
    async with decode_service(tmp_path) as (stub, _):
        whole = await responses(stub, start(), tokens())
        record = next(one.audio.resume_record for one in whole if one.HasField("audio"))
        assert await responses(stub, start(resume_record=record), tokens())
    weights(monkeypatch, services.decode.server, 2)
    async with decode_service(tmp_path) as (stub, _):
        for other in (record, b"LTD9" + record[4:]):
            code, error = await decode_refusal(stub, start(resume_record=other), tokens())
            assert code is grpc.StatusCode.UNAVAILABLE, "a caller of an earlier release then tries another worker"
            assert isinstance(error, StateMismatch)


async def test_an_llm_worker_refuses_ids_of_other_weights(
    worker: StartWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = await worker()
    weights(monkeypatch, services.llm.server, 1)
    async with llm_service(tmp_path, decode.address) as llm:
        first = await llm.speak()
    origin = first.started[0].origin
    weights(monkeypatch, services.llm.server, 2)
    options: dict[str, Any] = {"text_order": llm_pb2.TEXT_ORDER_WHOLE}
    async with llm_service(tmp_path, decode.address) as llm:
        for other in (origin, b"\2" + origin[1:]):
            resume = llm_pb2.GenerateResume(raw_ids=first.raw_ids[:20], origin=other)
            code, error = await refusal(llm.responses(Spoken(), resume=resume, **options))
            assert code is grpc.StatusCode.UNAVAILABLE
            assert isinstance(error, StateMismatch)
        unnamed = llm_pb2.GenerateResume(raw_ids=first.raw_ids[:20])  # from a gateway of an earlier release
        assert (await llm.speak(resume=unnamed, **options)).raw_ids == first.raw_ids[20:]


@pytest.mark.parametrize("refusal_of", ["refuses_state", "misreads_state"])
async def test_an_utterance_passes_over_decode_workers_that_its_record_does_not_fit(
    worker: StartWorker, tmp_path: Path, refusal_of: str
) -> None:
    workers = sorted([await worker(f"w{index}") for index in range(4)], key=lambda made: made.address)
    async with llm_service(tmp_path, *(made.address for made in workers), lead_seconds=2.0, decode_max_moves=1) as llm:
        at = workers.index(await first_worker(workers, llm))
        lossy, *others, fits = workers[at:] + workers[:at]
        lossy.script.die_after = 1
        for other in others:
            setattr(other.script, refusal_of, True)
        spoken = await llm.speak()
        await all_free()
    assert np.array_equal(spoken.samples, audio_of(fits.calls[-1].tokens))
    assert [len(other.calls) for other in others] == [1, 1]
    assert [(move.from_worker, move.to_worker) for move in spoken.moved] == [(lossy.name, fits.name)]


@pytest.mark.parametrize("refusal_of", ["refuses_state", "misreads_state"])
async def test_a_record_that_fits_nowhere_ends_the_call_as_a_mismatch(
    worker: StartWorker, tmp_path: Path, refusal_of: str
) -> None:
    workers = await two_workers(worker)
    async with llm_service(tmp_path, *(made.address for made in workers), lead_seconds=2.0) as llm:
        lossy = await first_worker(workers, llm)
        other = next(made for made in workers if made is not lossy)
        lossy.script.die_after = 1
        lossy.script.refuses_state = True
        setattr(other.script, refusal_of, True)
        spoken = Spoken()
        code, error = await refusal(llm.responses(spoken))
        await all_free()
    assert code is grpc.StatusCode.UNAVAILABLE
    assert isinstance(error, StateMismatch), "the gateway starts the utterance again, if nothing of it was heard"
    assert len(spoken.audio) == 1


async def heard(r: Rig, then: dict[str, Any]) -> Conversation:
    """A client that has received the first audio, and lost its llm worker; further calls follow `then`."""
    release = asyncio.Event()
    first_of_each(r, hold={1: release}, fail_at_hop=1, error=Unavailable("gone"))
    client = await Conversation(r, config()).begin()
    await client.text(TEXT)
    await client.end()
    await client.next_of(audio_pb2.AudioChunk)
    for llm in r.llms:
        llm.scripts |= {number: Script(**then) for number in range(len(llm.calls), LATER)}
    release.set()
    return client


@pytest.mark.parametrize("error", [StateMismatch("other weights"), NotFound("no such style"), InvalidInput("LTD2")])
async def test_ids_that_fit_no_llm_worker_end_a_stream_that_was_heard(error: LightTtsError) -> None:
    async with rig(llms=2) as r:
        client = await heard(r, {"refusal": error})
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.rest()
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "have other weights or another version" in (refused.value.details() or "")
        assert [len(llm.calls) for llm in r.llms] in ([2, 1], [1, 2])  # the worker that was lost is ejected, or asked


async def test_a_stream_that_was_heard_goes_on_at_a_worker_with_the_same_weights() -> None:
    async with rig(llms=3) as r:
        client = await heard(r, {})
        lost = next(llm for llm in r.llms if llm.calls)
        other = next(llm for llm in r.llms if llm is not lost)
        other.scripts[0] = Script(refusal=StateMismatch("other weights"))
        assert np.array_equal(samples(await client.rest()), expected(TEXT))
        resumes = [call.start.resume for llm in r.llms for call in llm.calls if call.start.HasField("resume")]
        assert resumes
        assert {resume.origin for resume in resumes} == {lost.origin}


async def test_an_utterance_that_was_not_heard_starts_again() -> None:
    """The second sentence is generated while the first one is held, so none of its audio has left the gateway."""
    async with rig() as r:
        release = asyncio.Event()
        r.llm.scripts = {
            0: Script(hold={1: release}),
            1: Script(fail_at_hop=2, error=Unavailable("gone")),
            2: Script(refusal=StateMismatch("other weights")),
        }
        client = await Conversation(r, config()).begin()
        await client.text("One is long. Two is also long.")
        await client.end()
        await until(lambda: len(r.llm.calls) == 4)
        release.set()
        both = expected("One is long.", " Two is also long.")
        assert np.array_equal(samples(await client.rest()), both)
        starts = [call.start for call in r.llm.calls[1:]]
        assert [start.HasField("resume") for start in starts] == [False, True, False]
