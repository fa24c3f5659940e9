"""Failures at the gateway: bad input, lost workers, overload, shutdown. Each gives a clear error, nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import math

import grpc
import grpc.aio
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from lighttts.v1 import audio_pb2, llm_pb2, tts_pb2
from services.common.errors import Internal, InvalidInput, NotFound, Unavailable
from tests.support.fake_encode import VOICES, FakeEncode
from tests.support.fake_stages import Conversation, Rig, Script, rig, samples, until
from tests.support.gateway_speech import config, expected, synthesize

Status = grpc.StatusCode


async def refused(r: Rig, text: str, configuration: tts_pb2.SynthesisConfig) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await synthesize(r, text, configuration)
    return refusal.value


def violated_field(error: grpc.aio.AioRpcError) -> str:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    for detail in status.details if status else ():
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            return str(bad.field_violations[0].field)
    return ""


async def test_bad_requests_are_refused_with_what_to_change() -> None:
    prompt = tts_pb2.Prompt
    cases: list[tuple[str, tts_pb2.SynthesisConfig, str, str]] = [
        ("", config(), "text", "empty"),
        (" \n", config(), "text", "empty"),
        ("... !?", config(), "text", "only punctuation"),
        ("a" * 100_000, config(), "text", "20000 are allowed"),
        ("Hi.", config(speed=math.nan), "config.speed", "0.25 to 4"),
        ("Hi.", config(speed=-1), "config.speed", "0.25 to 4"),
        ("Hi.", config(speed=100), "config.speed", "0.25 to 4"),
        ("Hi.", config(prompt=prompt(audio=b"RIFF")), "config.prompt.transcript", "words spoken"),
        ("Hi.", config(prompt=prompt(transcript="hi")), "config.prompt.audio", "send a recording"),
        ("Hi.", config(prompt=prompt(audio=b"x" * 2_000_001, transcript="hi")), "config.prompt.audio", "shorter"),
        ("Hi.", config(prompt=prompt(audio=b"BAD", transcript="hi")), "prompt.audio", "not audio"),
        ("Hi.", config(sampling=llm_pb2.SamplingOptions(top_p=math.nan)), "config.sampling.top_p", "at most 1"),
        ("Hi.", config(sampling=llm_pb2.SamplingOptions(temperature=0)), "config.sampling.temperature", "above 0 and"),
        ("Hi.", tts_pb2.SynthesisConfig(format=99), "config.format", "S16LE"),  # type: ignore[arg-type]
        ("Hi.", config(priority=9), "config.priority", "INTERACTIVE"),
    ]
    async with rig(max_prompt_bytes=2_000_000) as r:
        for text, configuration, field, words in cases:
            error = await refused(r, text, configuration)
            assert (error.code(), violated_field(error)) == (Status.INVALID_ARGUMENT, field), error.details()
            assert words in (error.details() or "")
        assert np.array_equal(samples(await synthesize(r, "Hi.", config())), expected("Hi."))


async def test_the_error_for_an_unknown_voice_lists_the_known_ones() -> None:
    async with rig() as r:
        error = await refused(r, "Hi.", config(voice_name="nobody"))
        assert error.code() == Status.NOT_FOUND
        assert "'nobody'" in (error.details() or "")
        assert "anna, hugo" in (error.details() or "")


async def test_a_refusal_of_the_llm_reaches_the_client_unchanged() -> None:
    async with rig() as r:
        r.llm.scripts[0] = Script(fail_at_hop=0, error=NotFound("there is no style 'x'", field="start.style"))
        error = await refused(r, "Hi.", config(style="x"))
        assert (error.code(), error.details()) == (Status.NOT_FOUND, "there is no style 'x'")
        assert len(r.llm.calls) == 1


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([tts_pb2.StreamingSynthesizeRequest(text="Hi.")], "first message must be the config"),
        ([], "first message must be the config"),
        ([tts_pb2.StreamingSynthesizeRequest()], "first message must be the config"),
        ([tts_pb2.StreamingSynthesizeRequest(config=config())] * 2, "one config"),
        ([tts_pb2.StreamingSynthesizeRequest(config=config()), tts_pb2.StreamingSynthesizeRequest()], "empty message"),
    ],
)
async def test_wrong_messages(messages: list[tts_pb2.StreamingSynthesizeRequest], words: str) -> None:
    async with rig() as r:
        with pytest.raises(grpc.aio.AioRpcError, match=words) as refusal:
            async for _ in r.tts.StreamingSynthesize(iter(messages)):
                pass
        assert refusal.value.code() == Status.INVALID_ARGUMENT


async def test_the_text_limit_of_a_stream_counts_only_waiting_text() -> None:
    async with rig(max_text_chars=20) as r:
        client = await Conversation(r).begin()
        for _ in range(5):  # more than 20 characters in all
            await client.text("Ten chars.")
            await client.next_of(tts_pb2.Spoken)
        await client.text("Twenty-one characters")
        with pytest.raises(grpc.aio.AioRpcError, match="more than 20 characters"):
            await client.rest()


async def test_endless_speech_gets_an_error_and_flushes_and_cancels_reset_the_limit() -> None:
    async with rig(max_speech_seconds=0.15) as r:
        client = await Conversation(r).begin()
        for end in (client.flush, client.cancel) * 2:
            await client.text("Ten chars.")  # 0.1 s
            await client.next_of(tts_pb2.Spoken)
            await end()
            await client.next_of(tts_pb2.Mark if end == client.flush else tts_pb2.Spoken)
        await client.text("Ten chars. And more.")
        with pytest.raises(grpc.aio.AioRpcError, match=r"more than 0\.15 s of speech; .* flush") as refusal:
            await client.rest()
        assert refusal.value.code() == Status.INVALID_ARGUMENT
        assert 0.5 <= len(samples(client.events)) / 24000 <= 0.55


async def test_too_many_pending_flushes() -> None:
    async with rig(max_pending_flushes=3) as r:
        r.llm.scripts[0] = Script(hold={0: asyncio.Event()})
        client = await Conversation(r).begin()
        await client.text("One.")
        await until(lambda: len(r.llm.calls) == 1)
        for _ in range(4):
            await client.flush()
        with pytest.raises(grpc.aio.AioRpcError, match="wait for their marks"):
            await client.rest()
        await r.llm.calls[0].cancelled.wait()


async def test_a_prompt_is_uploaded_in_parts_and_encoded_once() -> None:
    audio = bytes(range(256)) * 1000
    mine = config(prompt=tts_pb2.Prompt(audio=audio, transcript="hello"))
    async with rig() as r:
        r.encode.voice_gate.clear()
        both = [asyncio.create_task(synthesize(r, "Hi.", mine)) for _ in range(2)]
        await until(lambda: len(r.encode.uploads) == 1)
        r.encode.voice_gate.set()
        await asyncio.gather(*both)
        await synthesize(r, "Hi.", mine)
        ((header, parts),) = r.encode.uploads
        assert header.transcript == "hello"
        assert b"".join(parts) == audio
        assert max(map(len, parts)) == 64 * 1024
        await synthesize(r, "Hi.", config(prompt=tts_pb2.Prompt(audio=audio, transcript="other words")))
        assert len(r.encode.uploads) == 2


async def test_voices_that_do_not_fit_are_encoded_again() -> None:
    async with rig(voice_cache_bytes=40) as r:
        for name in ("hugo", "hugo", "anna", "anna", "hugo"):
            await synthesize(r, "Hi.", config(voice_name=name))
        assert [header.bundled_voice for header, _ in r.encode.uploads] == ["hugo", "anna", "hugo"]


async def test_a_client_that_leaves_does_not_end_the_extraction_for_others() -> None:
    async with rig() as r:
        r.encode.voice_gate.clear()
        leaving, staying = (asyncio.create_task(synthesize(r, "Hi.", config())) for _ in range(2))
        lookups = r.gateway._context.voices._lookups._jobs
        await until(lambda: len(r.encode.uploads) == 1 and [job.callers for job in lookups.values()] == [2])
        leaving.cancel()
        await asyncio.wait({leaving})
        r.encode.voice_gate.set()
        assert np.array_equal(samples(await staying), expected("Hi."))
        assert len(r.encode.uploads) == 1


async def test_a_worker_that_lacks_the_voice_gets_it() -> None:
    async with rig() as r:
        r.llm.scripts[0] = Script(need_voice=True)
        await synthesize(r, "Hi.", config())
        voice = r.llm.calls[0].voice
        assert voice is not None
        assert voice.voice_hash == r.llm.calls[0].start.voice_hash


async def test_an_error_of_the_next_utterance_comes_after_the_audio_before_it() -> None:
    async with rig() as r:
        release = asyncio.Event()
        failing = Script(fail_at_hop=0, error=Internal("broken", repeated=True))
        r.llm.scripts = {0: Script(hold={1: release}), 1: failing}
        client = await Conversation(r).begin()
        await client.text("One is long. Two.")
        await until(lambda: len(r.llm.calls) == 2)
        await r.llm.calls[1].cancelled.wait()
        release.set()
        with pytest.raises(grpc.aio.AioRpcError, match="broken"):
            await client.rest()
        assert np.array_equal(samples(client.events), expected("One is long."))


async def test_no_llm_worker() -> None:
    async with rig(worker_wait_seconds=0) as r:
        await r.llm_servers[0].close()
        error = await refused(r, "Hi.", config())
        assert error.code() == Status.UNAVAILABLE


async def test_a_full_gateway_refuses_at_once_with_a_hint() -> None:
    async with rig(max_sessions=1) as r:
        r.llm.scripts[0] = Script(hold={0: asyncio.Event()})
        client = await Conversation(r).begin()
        await client.next_of(tts_pb2.Started)
        error = await refused(r, "Hi.", config())
        assert error.code() == Status.RESOURCE_EXHAUSTED
        retry = error_details_pb2.RetryInfo()
        status = rpc_status.from_call(error)  # type: ignore[arg-type]
        assert any(detail.Unpack(retry) for detail in status.details)
        client.call.cancel()


async def test_draining_lets_a_running_stream_finish() -> None:
    async with rig() as r:
        release = asyncio.Event()
        r.llm.scripts[0] = Script(hold={1: release})
        client = await Conversation(r).begin()
        await client.text("One is long.")
        await client.end()
        await client.next_of(audio_pb2.AudioChunk)
        draining = asyncio.create_task(r.server.drain())
        while (await r.http.get("/readiness")).json() != {"status": "stopping"}:
            pass
        error = await refused(r, "Hi.", config())
        assert error.code() == Status.UNAVAILABLE
        release.set()
        assert np.array_equal(samples(await client.rest()), expected("One is long."))
        await draining


async def test_draining_aborts_streams_after_the_grace_period_with_a_reason() -> None:
    async with rig(drain_grace_seconds=0.1) as r:
        r.llm.scripts[0] = Script(hold={1: asyncio.Event()})
        client = await Conversation(r).begin()
        await client.text("One is long.")
        await client.next_of(audio_pb2.AudioChunk)
        draining = asyncio.create_task(r.server.drain())
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.rest()
        assert error.value.code() == Status.UNAVAILABLE
        assert "send the rest" in (error.value.details() or "")
        await r.llm.calls[0].cancelled.wait()
        await draining


async def test_a_new_checkpoint_gets_its_voices_extracted_again() -> None:
    async with rig(model_poll_seconds=0.05) as r:
        await synthesize(r, "Hi.", config())
        r.encode.identity = "model-2"
        while len(r.encode.uploads) < 2:  # the rig's time limit ends this wait
            await synthesize(r, "Hi.", config())


async def test_a_defect_while_the_model_is_polled_does_not_end_the_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    polls = 0

    async def broken() -> None:
        nonlocal polls
        polls += 1
        raise TypeError("a defect")

    async with rig(model_poll_seconds=0.02) as r:
        monkeypatch.setattr(r.gateway._context.voices, "sweep", broken)
        polling = r.gateway._polling
        assert polling is not None
        await until(lambda: polls == 2 or polling.done())
        assert not polling.done()
        r.encode.identity = "model-2"
        await until(lambda: r.gateway._context.voices.model.model == "model-2")


async def test_the_checkpoint_s_own_voices_are_there_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeEncode, "sends_voices", True)
    async with rig(voice_cache_bytes=0, model_poll_seconds=0.05) as r:
        r.encode.refusal = Unavailable("the extraction of voices fails")
        for name in (*VOICES, ""):
            events = await synthesize(r, "One is long.", config(voice_name=name))
            assert np.array_equal(samples(events), expected("One is long."))
            assert r.llm.calls[-1].start.voice_hash == f"hash of {name or VOICES[0]} in model-1"
        r.encode.identity = "model-2"
        while not r.llm.calls[-1].start.voice_hash.endswith("model-2"):  # the rig's time limit ends this wait
            # Between the new checkpoint and the poll that brings its voices, the gateway asks for one and is refused.
            with contextlib.suppress(grpc.aio.AioRpcError):
                await synthesize(r, "Hi.", config())
        assert not r.encode.uploads


async def test_voices_are_listed() -> None:
    async with rig() as r:
        listed = await r.voices.ListVoices(tts_pb2.ListVoicesRequest())
        assert [(voice.name, list(voice.languages)) for voice in listed.voices] == [("hugo", ["en"]), ("anna", ["en"])]
        assert listed.default_voice == "hugo"
    async with rig(default_voice="anna") as r:
        assert (await r.voices.ListVoices(tts_pb2.ListVoicesRequest())).default_voice == "anna"
        assert (await synthesize(r, "Hi.", config()))[0].voice_hash == "hash of anna"


async def test_an_unknown_input_is_an_error_of_the_client() -> None:
    async with rig() as r:
        r.llm.scripts[0] = Script(fail_at_hop=0, error=InvalidInput("the text is not English", field="text"))
        error = await refused(r, "Hi.", config())
        assert (error.code(), violated_field(error)) == (Status.INVALID_ARGUMENT, "text")
