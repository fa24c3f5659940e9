"""Input that the llm service refuses, the messages, and that a refusal disturbs no other call; the real model once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest

from lighttts.v1 import audio_pb2, llm_pb2, voice_pb2
from services.llm.engine.backends import NonFiniteLogits, SimulatedBackend
from services.llm.engine.scheduler import ScheduledSequence
from tests.support.decode_worker import StartWorker, audio_of
from tests.support.llm import (
    SPEECH_TOKENS,
    TEXT,
    VOICE,
    Spoken,
    all_free,
    llm_service,
    make_voice,
    metric,
    refusal,
    starting,
    text_message,
    until,
)

HASH = VOICE.voice_hash


def voiced(voice: voice_pb2.VoiceContent) -> llm_pb2.GenerateRequest:
    return llm_pb2.GenerateRequest(voice=voice)


def changed(**fields: object) -> llm_pb2.GenerateRequest:
    """The voice with other contents."""
    voice = voice_pb2.VoiceContent()
    voice.CopyFrom(VOICE)
    for name in fields:
        voice.ClearField(name)  # type: ignore[arg-type]
    voice.MergeFrom(voice_pb2.VoiceContent(**fields))  # type: ignore[arg-type]
    return voiced(voice)


def sampled(**options: object) -> llm_pb2.GenerateRequest:
    return starting(sampling=llm_pb2.SamplingOptions(**options))  # type: ignore[arg-type]


WHOLE = llm_pb2.TEXT_ORDER_WHOLE
FULL_TEXT = text_message(TEXT)
REFUSED: dict[str, tuple[list[llm_pb2.GenerateRequest], str | None, str]] = {
    "nothing": ([], "start", "first message must be start"),
    "no start": ([FULL_TEXT], "start", "first message must be start"),
    "start twice": ([starting(), starting()], "request", "after start only"),
    "an empty message": ([starting(), llm_pb2.GenerateRequest()], "request", "after start only"),
    "no voice named": ([starting(voice_hash="")], "start.voice_hash", "names no voice"),
    "resume without order": ([starting(resume=llm_pb2.GenerateResume(raw_ids=[1]))], "start.text_order", "text order"),
    "resume before its start": (
        [starting(resume=llm_pb2.GenerateResume(next_sample=-1), text_order=WHOLE)],
        "start.resume.next_sample",
        "negative",
    ),
    "resume beyond the text": (
        [starting(resume=llm_pb2.GenerateResume(raw_ids=[1] * 500), text_order=WHOLE), voiced(VOICE), FULL_TEXT],
        None,
        "after the utterance's end",
    ),
    "resume with ids out of range": (
        [starting(resume=llm_pb2.GenerateResume(raw_ids=[-1]), text_order=WHOLE), voiced(VOICE), FULL_TEXT],
        None,
        "resume id -1",
    ),
    "half-close before voice": ([starting(), FULL_TEXT], "voice", "before the voice"),
    "another voice": ([starting(), voiced(make_voice("two"))], "voice.voice_hash", "not the one"),
    "another model's voice": ([starting(), changed(model="other")], "voice.model", "another model"),
    "mel too short": ([starting(), changed(mel=b"\0" * 320)], "voice.mel", "320 bytes"),
    "mel not a number": ([starting(), changed(mel=np.full((20, 80), np.nan, "<f4").tobytes())], "voice", "finite"),
    "no embedding": ([starting(), changed(embedding=[])], "voice.embedding", "0 values"),
    "embedding not a number": ([starting(), changed(embedding=[math.inf] * 192)], "voice", "finite"),
    "voice tokens out of range": ([starting(), changed(speech_tokens=[729] * 10)], "voice", "prompt speech id 729"),
    "voice text out of range": ([starting(), changed(prompt_text_ids=[-1])], "voice", "prompt text id -1"),
    "empty text": ([starting(), voiced(VOICE), text_message(())], "text", "no text"),
    "no text": ([starting(), voiced(VOICE)], "text", "no text"),
    "text after last": ([starting(), voiced(VOICE), FULL_TEXT, FULL_TEXT], "text", "after the last|followed the last"),
    "text id too large": ([starting(), voiced(VOICE), text_message([5, 99999])], None, "text id 99999"),
    "negative text id": ([starting(), voiced(VOICE), text_message([-1])], None, "text id -1"),
    "text too long": ([starting(), voiced(VOICE), text_message([5] * 601)], "text", "more than 600"),
    "prompt and text too long": ([starting(), voiced(VOICE), text_message([5] * 590)], None, "shorten the prompt"),
    "temperature NaN": ([sampled(temperature=math.nan), voiced(VOICE), FULL_TEXT], None, "temperature nan"),
    "temperature 0": ([sampled(temperature=0.0), voiced(VOICE), FULL_TEXT], None, "temperature 0"),
    "top_p 2": ([sampled(top_p=2.0), voiced(VOICE), FULL_TEXT], None, "top_p 2"),
    "top_k 0": ([sampled(top_k=0), voiced(VOICE), FULL_TEXT], None, "top_k 0"),
    "speed NaN": ([starting(speed=math.nan)], "start.speed", "speed is nan; it must be 0.1 to 10"),
    "speed 11": ([starting(speed=11.0)], "start.speed", "speed is 11"),
    "max_seconds NaN": ([sampled(max_seconds=math.nan), voiced(VOICE), FULL_TEXT], None, "max_seconds nan"),
    "max_seconds 0": ([sampled(max_seconds=0.0), voiced(VOICE), FULL_TEXT], None, "max_seconds 0"),
}


async def test_bad_input_is_refused_in_clear_words(worker: StartWorker, tmp_path: Path) -> None:
    """An utterance plays during all refusals, and no bad voice enters the cache."""
    gate = asyncio.Event()
    decode = await worker(gate=gate)
    async with llm_service(tmp_path, decode.address, max_request_tokens=600) as llm:
        other = Spoken()
        playing = llm.responses(other, voice=make_voice("another"))
        await until_started(playing, other)
        for name, (requests, field, words) in REFUSED.items():
            if any(request.HasField("voice") for request in requests):
                start = requests[0].start
                start.voice_hash = f"{HASH} of {name}"
                for request in requests:
                    if request.HasField("voice") and name != "another voice":
                        request.voice.voice_hash = start.voice_hash
            code, error = await refusal(llm.generate(*requests))
            assert code is grpc.StatusCode.INVALID_ARGUMENT, name
            assert error.field == field, name
            assert any(word in error.message for word in words.split("|")), (name, error.message)
        code, error = await refusal(llm.generate(starting(style="opera")))
        assert (code, error.field) == (grpc.StatusCode.NOT_FOUND, "start.style")
        assert error.message == "there is no style 'opera'; choose one of default"
        gate.set()
        async for _ in playing:
            pass
        assert np.array_equal(other.samples, audio_of(decode.calls[0].tokens))
        assert len(other.raw_ids) == SPEECH_TOKENS
        bad_hash = f"{HASH} of voice tokens out of range"
        again = make_voice()
        again.voice_hash = bad_hash
        assert "need_voice" in (await llm.speak(voice=again)).kinds
        await all_free()


async def test_a_conversion_refuses_a_position_that_is_no_number(worker: StartWorker, tmp_path: Path) -> None:
    gate = asyncio.Event()
    decode = await worker(gate=gate)
    position = llm_pb2.GenerateRequest(position=audio_pb2.PlaybackPosition(seconds=math.nan))

    async def until_taken() -> AsyncIterator[llm_pb2.GenerateResponse]:
        heartbeats = 0
        async for response in llm.generate(starting(speech_tokens=[1] * 30), voiced(VOICE), position):
            heartbeats += response.HasField("heartbeat")
            if heartbeats == 50:
                gate.set()  # the position has been ignored; let the call end
            yield response

    async with llm_service(tmp_path, decode.address) as llm:
        code, error = await refusal(until_taken())
    assert (code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "position.seconds")
    assert "position nan" in error.message


async def until_started(responses: AsyncIterator[llm_pb2.GenerateResponse], spoken: Spoken) -> None:
    async for _ in responses:
        if spoken.started:
            return


async def test_a_full_engine_refuses_at_once(worker: StartWorker, tmp_path: Path) -> None:
    gate = asyncio.Event()
    decode = await worker(gate=gate)
    async with llm_service(tmp_path, decode.address, lead_seconds=2.0, max_running=2, max_waiting=1) as llm:
        speaking = [asyncio.create_task(llm.speak(seed=seed)) for seed in range(3)]
        await until(lambda: len(decode.calls) == 3)
        code, error = await refusal(llm.responses(Spoken()))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.retry_after == 1.0
        gate.set()
        for spoken in await asyncio.gather(*speaking):
            assert len(spoken.raw_ids) == SPEECH_TOKENS
        await all_free()


@pytest.mark.parametrize("tokens", [(), (1, 2, 3)])
async def test_a_voice_without_room_in_the_cache_is_refused_at_once(
    worker: StartWorker, tmp_path: Path, tokens: tuple[int, ...]
) -> None:
    gate = asyncio.Event()
    decode = await worker(gate=gate)
    async with llm_service(tmp_path, decode.address, voice_cache_count=1) as llm:
        speaking = asyncio.create_task(llm.speak())
        await until(lambda: len(decode.calls) == 1)
        other = llm.responses(Spoken(), () if tokens else TEXT, voice=make_voice("two"), speech_tokens=tokens)
        code, error = await refusal(other)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "voice cache is full" in str(error)
        gate.set()
        await speaking
        await all_free()


async def test_the_length_limit_is_reported(worker: StartWorker, tmp_path: Path) -> None:
    decode = await worker()
    async with llm_service(tmp_path, decode.address, max_seconds=4.0) as llm:
        short = await llm.speak(sampling=llm_pb2.SamplingOptions(max_seconds=1.0))
        bounded = await llm.speak(sampling=llm_pb2.SamplingOptions(max_seconds=100.0))
    for spoken, tokens in ((short, 25), (bounded, 100)):
        assert spoken.done is not None
        assert (spoken.done.reason, spoken.done.speech_tokens) == (llm_pb2.GenerateDone.REASON_LENGTH, tokens)
        assert len(spoken.raw_ids) == tokens


async def test_any_request_id_is_carried_safely(worker: StartWorker, tmp_path: Path) -> None:
    decode = await worker()
    async with llm_service(tmp_path, decode.address) as llm:
        assert (await llm.speak(request_id="zwölf\n€")).done is not None
    assert decode.calls[0].request_id == "request-7"


async def test_the_tiny_model_speaks_the_same_alone_and_in_a_batch(worker: StartWorker, tmp_path: Path) -> None:
    decode = await worker()
    text = tuple(range(40, 52))
    async with llm_service(tmp_path, decode.address, llm_backend="torch", llm_cost_file=None) as llm:
        alone = await llm.speak(text, seed=11)
        speaking = [asyncio.create_task(llm.speak(text, seed=seed)) for seed in (12, 11, 13)]
        company = await asyncio.gather(*speaking)
        timbre = await llm.speak(text, seed=11, prompt_use=llm_pb2.PROMPT_USE_TIMBRE)
        await all_free()
    assert company[1].raw_ids == alone.raw_ids
    assert company[0].raw_ids != alone.raw_ids != timbre.raw_ids
    assert 24 <= len(alone.raw_ids) <= 240  # the checkpoint's length rules: 2 to 20 tokens for each of the text
    assert np.array_equal(alone.samples, audio_of(alone.raw_ids))
    assert metric("lighttts_llm_kv_blocks_used") == 0


async def test_an_overflow_is_reported_to_its_own_client(
    worker: StartWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = SimulatedBackend._tokens

    def overflowing(self: SimulatedBackend, scheduled: ScheduledSequence) -> list[int]:
        if scheduled.sequence.request.sampling.seed == 13:
            raise NonFiniteLogits("the model's logits in float16 are not finite; a wider precision may help")
        return tokens(self, scheduled)

    monkeypatch.setattr(SimulatedBackend, "_tokens", overflowing)
    decode = await worker()
    async with llm_service(tmp_path, decode.address) as llm:
        spoken, (code, error) = await asyncio.gather(llm.speak(seed=3), refusal(llm.responses(Spoken(), seed=13)))
        await all_free()
    assert code is grpc.StatusCode.INTERNAL
    assert "float16 are not finite; a wider precision may help" in error.message
    assert len(spoken.raw_ids) == SPEECH_TOKENS
