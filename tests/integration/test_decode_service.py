"""The decode service over gRPC, with the simulated backend: voices, whole audio, hand-over, bad input."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from lighttts.v1 import audio_pb2, decode_pb2, decode_pb2_grpc, voice_pb2
from services.common.checkpoint.model_dir import open_model_dir
from services.common.errors import LightTtsError, from_rpc_error
from services.common.pool import open_channel
from services.common.server import ServiceServer
from services.common.voices.message import to_message
from services.common.voices.voice import Voice, voice_identity
from services.common.workers.call_end import CallEnd
from services.decode.server import DecodeService
from services.decode.settings import DecodeSettings
from tests.support.llm import metric, until

MODEL = voice_identity(open_model_dir(Path(__file__).parents[2] / "models" / "tiny"))
PROMPT = 30
TOKENS = list(range(60))
Request = decode_pb2.DecodeRequest
Response = decode_pb2.DecodeResponse


def make_voice(model: str = MODEL) -> voice_pb2.VoiceContent:
    draw = np.random.default_rng(3)
    voice = Voice(
        hash="ab" * 32,
        transcript="words",
        prompt_text_ids=np.arange(4, dtype=np.int32),
        speech_tokens=draw.integers(0, 729, PROMPT).astype(np.int32),
        mel=draw.standard_normal((2 * PROMPT, 80)).astype(np.float32),
        embedding=draw.standard_normal(192).astype(np.float32),
        seconds=PROMPT / 25,
    )
    return to_message(voice, model)


def start(**fields: Any) -> Request:
    return Request(start=decode_pb2.DecodeStart(**({"request_id": "r", "voice_hash": "ab" * 32} | fields)))


def tokens(ids: Iterable[int] = TOKENS, first: int = 0, last: bool = True) -> Request:
    return Request(tokens=decode_pb2.SpeechTokens(ids=ids, first_index=first, last=last))


@asynccontextmanager
async def decode_service(tmp_path: Path, **changes: Any) -> AsyncIterator[tuple[Any, DecodeService]]:
    """The service, without costs per frame, and its stub; the block has a time limit."""
    costs = tmp_path / "costs.json"
    costs.write_text('{"batch_s": 0.001, "stream_s": 0, "frame_s": 0}')
    settings = DecodeSettings(
        port=0, decode_backend="simulated", decode_cost_file=costs, heartbeat_seconds=0.02, **changes
    )
    service = DecodeService(settings)
    server = ServiceServer(service, settings)
    try:
        await server.start()
        async with asyncio.timeout(400), open_channel(server.address) as channel:
            yield decode_pb2_grpc.DecodeStub(channel), service
    finally:
        await server.close()


async def responses(stub: Any, *requests: Request) -> list[Response]:
    """All responses of a call except heartbeats; the voice is sent on request."""
    call = stub.Decode()
    end = CallEnd(call)
    answers: list[Response] = []
    try:
        for request in requests:
            await call.write(request)
        while isinstance(response := await call.read(), Response):
            if response.HasField("need_voice"):
                await call.write(Request(voice=make_voice()))
            if not response.HasField("heartbeat"):
                answers.append(response)
    except grpc.aio.AioRpcError as error:
        raise await end.error(error) from error
    return answers


def audio_of(answers: Iterable[Response]) -> np.ndarray[Any, Any]:
    """The samples, checked to join without a gap and to end with `last`."""
    chunks = [answer.audio.audio for answer in answers if answer.HasField("audio")]
    assert [chunk.sequence for chunk in chunks] == list(range(len(chunks)))
    assert [chunk.last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    samples = [np.frombuffer(chunk.pcm, "<f4") for chunk in chunks]
    starts = np.cumsum([0, *(len(part) for part in samples)])[:-1]
    assert [chunk.first_sample - chunks[0].first_sample for chunk in chunks] == starts.tolist()
    return np.concatenate(samples)


async def refusal(stub: Any, *requests: Request) -> tuple[grpc.StatusCode, LightTtsError]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await responses(stub, *requests)
    return caught.value.code(), from_rpc_error(caught.value)


async def test_a_voice_is_requested_once_and_every_token_becomes_audio(tmp_path: Path) -> None:
    async with decode_service(tmp_path) as (stub, _):
        first = await responses(stub, start(), tokens())
        second = await responses(stub, start(), tokens(TOKENS[:20], last=False), tokens(TOKENS[20:], 20))
    assert [answer.WhichOneof("response") for answer in first[:2]] == ["need_voice", "started"]
    assert second[0].WhichOneof("response") == "started"
    assert len(audio_of(first)) == 960 * len(TOKENS)
    np.testing.assert_array_equal(audio_of(first), audio_of(second))
    assert first[-1].audio.tokens_spoken == len(TOKENS)


async def test_another_worker_continues_from_any_record(tmp_path: Path) -> None:
    async with decode_service(tmp_path) as (stub, _):
        whole = await responses(stub, start(), tokens())
        audio = audio_of(whole)
        cuts = [answer.audio for answer in whole if answer.HasField("audio") and not answer.audio.audio.last]
        assert cuts
        for cut in cuts:
            rest = audio_of(await responses(stub, start(resume_record=cut.resume_record), tokens()))
            np.testing.assert_array_equal(rest, audio[-len(rest) :])
            assert len(rest) == len(audio) - cut.audio.first_sample - len(cut.audio.pcm) // 4


async def test_a_draining_worker_asks_to_hand_over_and_serves_on(tmp_path: Path) -> None:
    async with decode_service(tmp_path) as (stub, service):
        call = stub.Decode()
        for request in (start(), Request(voice=make_voice()), tokens(TOKENS[:30], last=False)):
            await call.write(request)
        answers: list[Response] = []
        while not answers or not answers[-1].HasField("audio"):
            answers.append(await call.read())
        await service.drain()
        while not answers[-1].HasField("hand_over"):
            answers.append(await call.read())
        await call.write(tokens(TOKENS[30:], 30))
        while not answers[-1].audio.audio.last:
            answers.append(await call.read())
    assert len(audio_of(answers)) == 960 * len(TOKENS)


async def test_a_drain_while_the_voice_is_awaited_asks_to_hand_over_too(tmp_path: Path) -> None:
    async with decode_service(tmp_path) as (stub, service):
        call = stub.Decode()
        await call.write(start())
        answers: list[Response] = [await call.read()]
        assert answers[0].HasField("need_voice")
        await service.drain()
        await call.write(Request(voice=make_voice()))
        await call.write(tokens())
        while not answers[-1].audio.audio.last:
            answers.append(await call.read())
    kinds = [answer.WhichOneof("response") for answer in answers]
    assert "hand_over" in kinds[kinds.index("started") :]
    assert len(audio_of(answers)) == 960 * len(TOKENS)


async def test_heartbeats_count_steps_while_tokens_are_awaited(tmp_path: Path) -> None:
    async with decode_service(tmp_path) as (stub, _):
        call = stub.Decode()
        await call.write(start())
        await call.write(Request(voice=make_voice()))
        beats: list[audio_pb2.Heartbeat] = []
        while len({beat.steps for beat in beats}) < 3:
            response = await call.read()
            if response.HasField("heartbeat"):
                beats.append(response.heartbeat)
        call.cancel()
        await until(lambda: metric("lighttts_rpc_active", method="/lighttts.v1.Decode/Decode") == 0)
    assert [beat.steps for beat in beats] == sorted(beat.steps for beat in beats)


BAD_INPUT = {
    "no start": ((tokens(),), "the first message must be start"),
    "start twice": ((start(), start()), "after start only"),
    "no voice named": ((start(voice_hash=""),), "names no voice"),
    "another voice than named": ((start(voice_hash="cd" * 32),), "not the one that start names"),
    "lost tokens": ((start(), tokens(first=5)), "begin at 5, expected 0"),
    "token out of range": ((start(), tokens([729])), "729"),
    "tokens after the last": ((start(), tokens(), tokens(first=60)), "after the last"),
    "speed": ((start(speed=99),), "speed 99"),
    "NaN speed": ((start(speed=float("nan")),), "speed"),
    "chunk plan": ((start(chunk_plan=decode_pb2.ChunkPlan(chunk=0, first_border=25)),), "must be at least 1"),
    "damaged record": ((start(resume_record=b"LTD1 not a record"),), "resume record"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
async def test_bad_input_is_refused_with_a_clear_message_and_disturbs_no_other_call(name: str, tmp_path: Path) -> None:
    requests, words = BAD_INPUT[name]
    async with decode_service(tmp_path) as (stub, _):
        playing = asyncio.create_task(responses(stub, start(), tokens()))
        code, error = await refusal(stub, *requests)
        assert (code, words in error.message) == (grpc.StatusCode.INVALID_ARGUMENT, True), error.message
        assert len(audio_of(await playing)) == 960 * len(TOKENS)
        await until(lambda: metric("lighttts_rpc_active", method="/lighttts.v1.Decode/Decode") == 0)


async def test_another_models_voice_is_refused(tmp_path: Path) -> None:
    async with decode_service(tmp_path) as (stub, _):
        code, error = await refusal(stub, start(), Request(voice=make_voice("another")))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "another model" in error.message
