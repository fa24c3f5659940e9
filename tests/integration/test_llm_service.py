"""The llm service between a client and decode workers: hops, relaying, back-pressure, heartbeats and positions."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest

from lighttts.v1 import audio_pb2, decode_pb2, llm_pb2
from tests.support.decode_worker import CHUNK, LOOKAHEAD, PROMPT_TOKENS, SAMPLE_RATE, Call, StartWorker, audio_of
from tests.support.llm import (
    SPEECH_TOKENS,
    TEXT,
    VOICE,
    Spoken,
    all_free,
    llm_service,
    metric,
    refusal,
    starting,
    text_message,
    until,
)


def check_hops(call: Call, first_border: int, chunk: int) -> None:
    """Each hop completes a chunk (absolute boundaries, prompt included) and its lookahead; the last one has the rest.

    A service that falls behind its engine sends more at once: tests/unit/llm/test_hops_sent.py has the exact numbers.
    """
    end = 0
    for index, count, last in call.hops:
        assert index == end
        position = PROMPT_TOKENS + max(0, end - LOOKAHEAD)
        chunk_end = first_border if position < first_border else (position // chunk + 1) * chunk
        end += count
        assert last == (end == SPEECH_TOKENS)
        assert last or end >= chunk_end - PROMPT_TOKENS + LOOKAHEAD
    assert end == SPEECH_TOKENS


async def test_an_utterance_is_spoken_hop_by_hop(worker: StartWorker, tmp_path: Path) -> None:
    decode = await worker("decode-0", needs_voice=True)
    async with llm_service(tmp_path, decode.address) as llm:
        spoken = await llm.speak(seed=5, speed=1.25)
        again = await llm.speak(seed=5, speed=1.25)
        other = await llm.speak(seed=6)
        await all_free()
    first, second, third = decode.calls
    assert first.voice == VOICE
    assert (first.start.voice_hash, first.start.seed, first.start.speed) == (VOICE.voice_hash, 5, 1.25)
    assert first.request_id == "request-7"

    check_hops(first, first_border=CHUNK, chunk=CHUNK)

    assert np.array_equal(spoken.samples, audio_of(first.tokens))
    assert spoken.raw_ids == first.tokens
    assert spoken.kinds[0] == "need_voice"
    assert "need_voice" not in again.kinds
    assert spoken.started[0] == llm_pb2.GenerateStarted(
        llm_worker="llm-0",
        decode_worker="decode-0",
        sample_rate=SAMPLE_RATE,
        text_order=llm_pb2.TEXT_ORDER_WHOLE,
        origin=spoken.started[0].origin,
    )
    assert spoken.started[0].origin
    assert not spoken.moved
    done = spoken.done
    assert done is not None
    assert (done.reason, done.speech_tokens) == (llm_pb2.GenerateDone.REASON_STOP, SPEECH_TOKENS)
    assert done.decode_worker == "decode-0"
    assert 0 < done.first_token <= done.first_hop <= done.first_audio
    assert spoken.audio[-1].tokens_spoken == spoken.audio[-1].tokens_generated == SPEECH_TOKENS

    assert np.array_equal(again.samples, spoken.samples)
    assert second.tokens == first.tokens
    assert third.tokens != first.tokens
    assert len(other.samples) == len(spoken.samples)


async def test_hops_follow_the_requests_chunk_plan(worker: StartWorker, tmp_path: Path) -> None:
    decode = await worker()
    async with llm_service(tmp_path, decode.address) as llm:
        await llm.speak(chunk_plan=decode_pb2.ChunkPlan(chunk=40, first_border=20))
        plan = decode_pb2.ChunkPlan(chunk=0, first_border=20)
        code, error = await refusal(llm.generate(starting(chunk_plan=plan)))
    check_hops(decode.calls[0], first_border=20, chunk=40)
    assert (code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "start.chunk_plan")


async def test_audio_leaves_before_the_last_token_is_generated(worker: StartWorker, tmp_path: Path) -> None:
    decode = await worker()
    async with llm_service(tmp_path, decode.address, lead_seconds=2.0) as llm:
        spoken = await llm.speak()
    # A lead of 2 s is 50 tokens, but a chunk plan like this one needs up to 53 for a hop.
    assert all(audio.tokens_generated - before <= 53 for before, audio in leads(spoken))
    assert spoken.audio[0].tokens_generated < SPEECH_TOKENS
    assert len(spoken.raw_ids) == SPEECH_TOKENS


def leads(spoken: Spoken) -> list[tuple[int, llm_pb2.GeneratedAudio]]:
    """Return every audio message with the number of tokens spoken before it."""
    before = [0, *(audio.tokens_spoken for audio in spoken.audio)]
    return list(zip(before, spoken.audio, strict=False))


@pytest.mark.parametrize("lead_seconds", [0.1, 1.0, 3.0])
async def test_generation_waits_for_a_slow_decode_stage(
    worker: StartWorker, tmp_path: Path, lead_seconds: float
) -> None:
    gate = asyncio.Event()
    decode = await worker(gate=gate)
    before = metric("lighttts_llm_tokens_generated_total")
    async with llm_service(tmp_path, decode.address, lead_seconds=lead_seconds, step_s=0.0005) as llm:
        spoken = Spoken()
        async with aclosing(llm.responses(spoken)) as responses:
            beats, held = 0, -1.0
            async for response in responses:
                generated = metric("lighttts_llm_tokens_generated_total") - before
                # Heartbeats during which nothing was generated, once there is a hop, without which no audio ever comes.
                beats = beats + response.HasField("heartbeat") if generated == held >= 28 else 0
                held = generated
                if beats == 5 and not gate.is_set():
                    assert held <= max(lead_seconds * 25, 53) + 1 + 4  # the warm-up's tokens too
                    assert held < SPEECH_TOKENS
                    assert decode.calls[0].hops
                    gate.set()
        assert gate.is_set()
    assert np.array_equal(spoken.samples, audio_of(decode.calls[0].tokens))
    assert len(decode.calls[0].tokens) == SPEECH_TOKENS


async def test_a_reader_that_stops_holds_generation_back(worker: StartWorker, tmp_path: Path) -> None:
    decode = await worker()
    text = tuple(range(5, 205))
    before = metric("lighttts_llm_tokens_generated_total")
    async with llm_service(tmp_path, decode.address, lead_seconds=2.0) as llm:
        spoken = Spoken()
        async with aclosing(llm.responses(spoken, text)) as responses:
            async for _ in responses:
                if len(spoken.audio) == 2:
                    break
            # No one reads: once the buffers of two connections are full, generation stops.
            counts: list[float] = []
            while len(counts) < 10 or counts[-10] != counts[-1]:
                counts.append(metric("lighttts_llm_tokens_generated_total") - before)
                await asyncio.sleep(0.02)
            assert counts[-1] < 600
            async for _ in responses:
                pass
    assert len(spoken.raw_ids) == 1200
    assert np.array_equal(spoken.samples, audio_of(decode.calls[0].tokens))


async def test_heartbeats_come_while_tokens_flow_and_while_text_is_awaited(worker: StartWorker, tmp_path: Path) -> None:
    gate = asyncio.Event()
    decode = await worker(gate=gate)
    async with llm_service(tmp_path, decode.address, step_s=0.012, heartbeat_seconds=0.02) as llm:
        before = metric("lighttts_llm_tokens_generated_total")
        call = llm.stub.Generate()
        await call.write(starting())
        states: Counter[int] = Counter()
        voiced = texted = False
        flowing = 0.0
        while (response := await call.read()) is not grpc.aio.EOF:
            if response.HasField("need_voice"):
                await call.write(llm_pb2.GenerateRequest(voice=VOICE))
                voiced = True
            if response.HasField("heartbeat"):
                states[response.heartbeat.state] += 1
            if voiced and not texted and states[audio_pb2.Heartbeat.STATE_WAITING] == 3:
                await call.write(text_message(TEXT))
                texted = True
            generated = metric("lighttts_llm_tokens_generated_total") - before
            if states[audio_pb2.Heartbeat.STATE_RUNNING] >= 2 and generated and not gate.is_set():
                flowing = generated
                gate.set()
    assert 0 < flowing < SPEECH_TOKENS  # tokens came every 12 ms, without a pause
    assert len(decode.calls[0].tokens) == SPEECH_TOKENS


async def test_text_in_parts_and_half_closing_are_the_text_in_one(worker: StartWorker, tmp_path: Path) -> None:
    decode = await worker()
    async with llm_service(tmp_path, decode.address) as llm:
        await llm.speak()
        parts = [text_message(TEXT[:7], last=False), text_message((), last=False), text_message(TEXT[7:], last=False)]
        whole = starting(text_order=llm_pb2.TEXT_ORDER_WHOLE)
        last = [response async for response in llm.generate(whole, *parts)][-1]
    assert last.done.speech_tokens == SPEECH_TOKENS
    assert decode.calls[1].tokens == decode.calls[0].tokens


async def test_positions_reach_the_decode_worker(worker: StartWorker, tmp_path: Path) -> None:
    gate = asyncio.Event()
    decode = await worker(gate=gate)
    async with llm_service(tmp_path, decode.address) as llm:
        gate.set()
        await llm.speak()
        gate.clear()
        position = audio_pb2.PlaybackPosition(seconds=1.5)
        requests = [starting(), text_message(TEXT), llm_pb2.GenerateRequest(position=position)]
        call = llm.generate(*requests)
        await until(lambda: len(decode.calls) == 2 and decode.calls[1].positions == [1.5])
        gate.set()
        async for _ in call:
            pass
