"""Text in at the gateway, audio out in a stream, through four kinds of processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc.aio
import httpx
import numpy as np
import pytest

from cli.local.ports import HOST
from cli.local.stack import Stack
from lighttts.v1 import encode_pb2, encode_pb2_grpc, llm_pb2, llm_pb2_grpc, voice_pb2
from services.common.rpc import channel_options
from services.common.settings import EMBEDDED_MODEL
from tests.support.figures import Figure
from tests.support.recogniser import SENTENCES, Recogniser
from tests.support.spoken import say, served_by

pytestmark = pytest.mark.asyncio(loop_scope="session")

LONG = "And who is this person you are speaking of?"
VOICES = ("anna", "hugo")


async def test_a_sentence_comes_as_a_stream_of_chunks(stack: Stack, figure: Figure) -> None:
    spoken = await say(stack, LONG)
    speech = spoken.speech
    assert speech.chunks > 1
    assert speech.sample_rate == 24000
    assert 1.5 < speech.audio_seconds < 6
    assert [chunk.sequence for chunk in spoken.chunks] == list(range(len(spoken.chunks)))
    ends = np.cumsum([len(chunk.pcm) // 2 for chunk in spoken.chunks])
    assert [chunk.first_sample for chunk in spoken.chunks] == [0, *ends[:-1]]
    assert 0.02 < np.sqrt(np.mean(spoken.samples**2)) < 0.5
    figure("time to first audio, one stream", f"{speech.time_to_first_audio:.2f} s")
    figure("real-time factor, one stream", f"{speech.real_time_factor:.2f}")


async def test_the_first_chunk_leaves_before_the_last_token_is_generated(stack: Stack) -> None:
    options = channel_options(16 * 2**20)
    async with (
        grpc.aio.insecure_channel(stack.encode.address, options) as encode,
        grpc.aio.insecure_channel(stack.llm.address, options) as llm,
    ):
        stub = encode_pb2_grpc.EncodeStub(encode)
        header = encode_pb2.EncodeVoiceHeader(bundled_voice="anna")
        voice = (await stub.EncodeVoice(one(encode_pb2.EncodeVoiceRequest(header=header)))).voice
        pieces = [piece async for piece in stub.EncodeText(text_requests(LONG))]
        ids = [number for piece in pieces for number in piece.text.ids]
        call = llm_pb2_grpc.LlmStub(llm).Generate(generate_requests(voice, ids))
        events = [event async for event in call if event.WhichOneof("response") in ("audio", "done")]
    first, done = events[0].audio, events[-1].done
    assert first.tokens_generated < done.speech_tokens


async def test_the_same_seed_speaks_the_same(stack: Stack) -> None:
    first, again, other = [await say(stack, LONG, seed) for seed in (5, 5, 6)]
    assert first.samples.shape == again.samples.shape
    np.testing.assert_allclose(first.samples, again.samples, atol=1e-3)
    assert first.samples.shape != other.samples.shape or np.abs(first.samples - other.samples).max() > 0.05


async def test_utterances_are_split_evenly_over_decode_workers(stack: Stack) -> None:
    assert sorted((await served_by(stack, 4)).items()) == [("decode-1", 2), ("decode-2", 2)]


async def test_a_prompt_of_ones_own_is_spoken_over_http(stack: Stack) -> None:
    prompt = {"prompt_wav": (EMBEDDED_MODEL / "prompt_hugo.wav").read_bytes()}
    words = (EMBEDDED_MODEL / "prompt_hugo.txt").read_text(encoding="utf-8").strip()
    form = {"tts_text": LONG, "prompt_text": words, "stream": "true"}
    async with httpx.AsyncClient(base_url=stack.http_url, timeout=400) as client:
        assert (await client.get("/readiness")).status_code == 200
        answer = await client.post("/inference_zero_shot", data=form, files=prompt)
    assert answer.status_code == 200
    assert 1.5 < len(answer.content) / 2 / 24000 < 6


async def test_every_process_reports_itself_ready_to_prometheus(stack: Stack) -> None:
    async with httpx.AsyncClient(timeout=400) as client:
        for worker in stack.workers():
            page = await client.get(f"http://{HOST}:{worker.spec.metrics_port}/metrics")
            assert "\nlighttts_ready 1.0\n" in page.text, worker.name


async def test_text_to_speech_is_understood(stack: Stack, numbers: range, figure: Figure) -> None:
    """The whole way, both bundled voices alternately, the sentence's number as its seed."""
    two_at_once = asyncio.Semaphore(2)
    recogniser = Recogniser()

    async def understood(number: int) -> bool:
        async with two_at_once:
            spoken = await say(stack, SENTENCES[number], seed=number, voice=VOICES[number % 2])
        return recogniser.hear(spoken.samples, spoken.speech.sample_rate) == number

    heard = sum(await asyncio.gather(*(understood(number) for number in numbers)))
    figure("understood: text → speech, through the whole stack", f"{heard} of {len(numbers)}")
    assert heard >= len(numbers) * 24 // 25


async def test_an_utterance_survives_its_decode_worker_which_is_left_out_until_it_serves_again(stack: Stack) -> None:
    undisturbed = await say(stack, LONG, seed=3)
    (last,) = await served_by(stack, 1)
    turn = next(worker for worker in stack.decode if worker.name != last)  # two workers, alternately
    try:
        disturbed = await say(stack, LONG, seed=3, on_first_chunk=turn.kill)
        assert any("moved to another worker" in warning for warning in disturbed.speech.warnings)
        assert disturbed.samples.shape == undisturbed.samples.shape
        np.testing.assert_allclose(disturbed.samples, undisturbed.samples, atol=1e-3)
        assert await served_by(stack, 2) == {last: 2}
    finally:  # other tests use the stack
        await turn.restart()
    async with asyncio.timeout(400):
        while turn.name not in await served_by(stack, 1):
            continue
    assert sorted((await served_by(stack, 4)).items()) == [("decode-1", 2), ("decode-2", 2)]


async def one(request: encode_pb2.EncodeVoiceRequest) -> AsyncIterator[encode_pb2.EncodeVoiceRequest]:
    yield request


async def text_requests(text: str) -> AsyncIterator[encode_pb2.EncodeTextRequest]:
    yield encode_pb2.EncodeTextRequest(start=encode_pb2.EncodeTextStart())
    yield encode_pb2.EncodeTextRequest(fragment=text)


async def generate_requests(voice: voice_pb2.VoiceContent, ids: list[int]) -> AsyncIterator[llm_pb2.GenerateRequest]:
    yield llm_pb2.GenerateRequest(start=llm_pb2.GenerateStart(voice_hash=voice.voice_hash, seed=1))
    yield llm_pb2.GenerateRequest(voice=voice)
    yield llm_pb2.GenerateRequest(text=llm_pb2.TextTokens(ids=ids, last=True))
