"""Admission of sessions: a new one is refused at once when a service is full, an admitted one waits in line."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from prometheus_client import REGISTRY

from gateway.utterance.recent_refusal import RecentRefusal
from lighttts.compat import riva_common_pb2, riva_tts_pb2, riva_tts_pb2_grpc
from lighttts.v1 import audio_pb2, tts_pb2
from services.common.errors import Overloaded, from_rpc_error
from tests.support.fake_stages import Conversation, Rig, Script, rig, samples, until
from tests.support.gateway_speech import config, expected, synthesize

LONG = 600.0
"""Seconds that no test lasts."""
TEXT = "One. Two. Three."
FULL = Overloaded("every decode worker is full; try again shortly", retry_after=2.0, stage="decode")
Status = grpc.StatusCode


def refusals(stage: str) -> float:
    return REGISTRY.get_sample_value("lighttts_gateway_refusals_total", {"stage": stage}) or 0.0


async def test_a_new_session_is_refused_with_the_name_of_the_full_stage_and_a_hint() -> None:
    async with rig() as r:
        r.llm.scripts = {0: Script(refusal=FULL)}
        before = refusals("decode")
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await synthesize(r, TEXT)
        error = from_rpc_error(refusal.value)
        assert isinstance(error, Overloaded)
        assert (error.stage, error.message, error.retry_after) == ("decode", FULL.message, 2.0)
        assert refusals("decode") == before + 1
        assert len(r.llm.calls) == 1, "it does not wait for a second chance"


async def refused(r: Rig) -> Overloaded:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await synthesize(r, TEXT)
    error = from_rpc_error(refusal.value)
    assert isinstance(error, Overloaded)
    return error


async def test_a_refusal_holds_for_the_next_new_session_without_a_call_to_a_worker() -> None:
    async with rig(refusal_seconds=LONG) as r:
        held = asyncio.Event()
        r.llm.scripts = {0: Script(hold={0: held}), 1: Script(refusal=FULL)}
        speaking = asyncio.create_task(synthesize(r, "One."))
        await until(lambda: len(r.llm.calls) == 1)
        await refused(r)
        texts = len(r.encode.texts)
        before = refusals("decode")
        error = await refused(r)
        assert (error.stage, error.message, error.retry_after) == ("decode", FULL.message, 2.0)
        assert refusals("decode") == before + 1
        assert (len(r.encode.texts), len(r.llm.calls)) == (texts, 2)
        held.set()
        await speaking
        assert np.array_equal(samples(await synthesize(r, TEXT)), expected("One.", " Two.", " Three.")), "there is room"


async def test_a_refusal_ends_and_does_not_concern_other_priorities() -> None:
    now = 0.0
    recent = RecentRefusal(0.5, lambda: now)
    recent.check(audio_pb2.Urgency.PRIORITY_INTERACTIVE)
    recent.record(FULL, audio_pb2.Urgency.PRIORITY_INTERACTIVE)
    recent.check(audio_pb2.Urgency.PRIORITY_OFFLINE)
    with pytest.raises(Overloaded):
        recent.check(audio_pb2.Urgency.PRIORITY_INTERACTIVE)
    now = 0.5
    recent.check(audio_pb2.Urgency.PRIORITY_INTERACTIVE)


async def test_a_full_gateway_is_a_stage_too() -> None:
    async with rig(max_sessions=1) as r:
        first = await Conversation(r).begin()
        await first.next_of(tts_pb2.Started)
        before = refusals("gateway")
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await synthesize(r, TEXT)
        error = from_rpc_error(refusal.value)
        assert isinstance(error, Overloaded)
        assert error.stage == "gateway"
        assert refusals("gateway") == before + 1
        await first.end()
        await first.rest()


@pytest.mark.parametrize("stage", ["llm", "decode"])
async def test_no_sentence_of_an_admitted_session_is_refused(stage: str) -> None:
    async with rig() as r:
        full = Script(refusal=Overloaded(f"every {stage} worker is full", stage=stage))
        r.llm.scripts = dict.fromkeys((1, 2, 4, 5), full)
        audio = samples(await synthesize(r, TEXT))
        assert np.array_equal(audio, expected("One.", " Two.", " Three."))
        places = [call.start.place for call in r.llm.calls]
        assert [place.admitted for place in places] == [False] + [True] * 6
        assert places[0].session
        assert len({place.session for place in places}) == 1


async def test_two_sessions_have_two_places() -> None:
    async with rig() as r:
        await synthesize(r, "One.")
        await synthesize(r, "One.")
        one, other = (call.start.place for call in r.llm.calls)
        assert one.session != other.session
        assert not other.admitted


async def test_an_admitted_session_that_waits_too_long_ends_with_the_refusal() -> None:
    async with rig(session_patience_seconds=0) as r:
        r.llm.scripts = {1: Script(refusal=FULL)}
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await synthesize(r, TEXT)
        assert refusal.value.code() == Status.RESOURCE_EXHAUSTED


async def test_a_session_is_admitted_once_for_all_its_turns() -> None:
    async with rig() as r:
        r.llm.scripts = {1: Script(refusal=FULL)}
        client = await Conversation(r, config()).begin()
        for _ in range(2):
            await client.text("A turn.")
            await client.flush()
            await client.next_of(tts_pb2.Mark)
            await client.cancel()
            await client.next_of(tts_pb2.Spoken)
        await client.end()
        await client.rest()
        assert [call.start.place.admitted for call in r.llm.calls] == [False, True, True]


async def test_a_worker_that_continues_an_utterance_takes_it_as_admitted() -> None:
    async with rig(llms=2) as r:
        for llm in r.llms:
            llm.scripts[0] = Script(stop_at_hop=1)
        await synthesize(r, "A long sentence.")
        first, second = sorted((llm.calls[0].start for llm in r.llms), key=lambda start: start.place.admitted)
        assert (first.place.admitted, second.place.admitted) == (False, True)
        assert first.place.session == second.place.session


async def test_an_utterance_ahead_yields_while_earlier_audio_plays() -> None:
    """The third sentence is due when the second one has been played, whose length is estimated from the first one."""
    async with rig() as r:
        long = "The second of three sentences has many words, " * 5 + "and ends here."
        release = asyncio.Event()
        r.llm.scripts = {1: Script(hold={40: release})}
        client = await Conversation(r, config()).begin()
        await client.text(f"The first one.{long}Three.")
        await client.flush()
        await until(lambda: len(r.llm.calls) == 3)
        release.set()
        await client.end()
        await client.rest()
        targets = [call.start.urgency.first_audio_target for call in r.llm.calls]
        assert targets[0] == 0, "the worker's own target"
        assert 0.5 < targets[2] < (len("The first one.") + len(long)) * 240 / 24000


async def test_the_requests_of_one_riva_stream_have_one_place() -> None:
    named: dict[str, Any] = {"language_code": "en-US", "encoding": riva_common_pb2.LINEAR_PCM}

    async def requests() -> Any:
        for rate in (24000, 16000):  # another format: another session of ours
            yield riva_tts_pb2.SynthesizeSpeechRequest(text="One.", sample_rate_hz=rate, **named)

    async with rig() as r:
        r.llm.scripts = {1: Script(refusal=FULL)}
        stub = riva_tts_pb2_grpc.RivaSpeechSynthesisStub(r.channel)
        assert [response async for response in stub.SynthesizeOnline(requests())]
        places = [call.start.place for call in r.llm.calls]
        assert len({place.session for place in places}) == 1
        assert [place.admitted for place in places] == [False, True, True]
