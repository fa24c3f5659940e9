"""All modes, through the gateway and the real services with the mini checkpoint."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
import soundfile

from lighttts.v1 import tts_pb2, tts_pb2_grpc
from services.common.errors import from_rpc_error
from tests.support.mini_stack import MiniStack

PROMPT = Path(__file__).parents[2] / "models" / "tiny" / "prompt_anna.wav"
WORDS = PROMPT.with_suffix(".txt").read_text(encoding="utf-8").strip()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stub(mini: MiniStack) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(mini.stack.gateway.address) as channel:
        yield tts_pb2_grpc.TextToSpeechStub(channel)


def config(**fields: Any) -> tts_pb2.SynthesisConfig:
    made = tts_pb2.SynthesisConfig(seed=3, **fields)
    made.sampling.max_seconds = 1.0
    return made


def prompt(transcript: str = "") -> tts_pb2.Prompt:
    return tts_pb2.Prompt(audio=PROMPT.read_bytes(), transcript=transcript)


async def audio_of(responses: Any) -> bytes:
    return b"".join([response.audio.pcm async for response in responses])


async def speak(stub: Any, **fields: Any) -> bytes:
    return await audio_of(stub.Synthesize(tts_pb2.SynthesizeRequest(config=config(**fields), text="hello world")))


@pytest.mark.asyncio(loop_scope="session")
async def test_every_mode(stub: Any) -> None:
    instruct = {"mode": tts_pb2.SPEECH_MODE_INSTRUCT, "instruct_text": "say it angrily"}
    spoken = [
        await speak(stub, prompt=prompt(WORDS)),
        await speak(stub, prompt=prompt(), mode=tts_pb2.SPEECH_MODE_CROSS_LINGUAL),
        await speak(stub, prompt=prompt(), **instruct),
        await speak(stub, voice_name="mini_a"),
        await speak(stub, voice_name="mini_b"),
    ]
    assert all(spoken)
    assert len(set(spoken)) == len(spoken)


@pytest.mark.asyncio(loop_scope="session")
async def test_voice_conversion(stub: Any) -> None:
    request = tts_pb2.ConvertVoiceRequest(config=config(voice_name="mini_a"), audio=PROMPT.read_bytes())
    finished = tts_pb2.Finished()
    samples = 0
    async for response in stub.ConvertVoice(request):
        samples += len(response.audio.pcm) // 2
        if response.HasField("finished"):
            finished = response.finished
    assert samples % 960 == 0
    assert finished.audio_seconds == pytest.approx(samples / 24000)
    assert finished.audio_seconds == pytest.approx(soundfile.info(PROMPT).duration, rel=0.1)


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompt": prompt()}, "no transcript"),
        ({"mode": tts_pb2.SPEECH_MODE_INSTRUCT}, "instruction is empty"),
        ({"instruct_text": "angrily"}, "needs the mode INSTRUCT"),
        ({"mode": tts_pb2.SPEECH_MODE_INSTRUCT, "instruct_text": "x" * 1001}, "shorten it"),
    ],
)
async def test_invalid_combinations_are_refused(stub: Any, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await speak(stub, **fields)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in from_rpc_error(caught.value).message


@pytest.mark.asyncio(loop_scope="session")
async def test_an_empty_recording_is_refused(stub: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await audio_of(stub.ConvertVoice(tts_pb2.ConvertVoiceRequest(config=config(voice_name="mini_a"))))
    assert "send a recording" in from_rpc_error(caught.value).message
