"""Every mode through encode, llm and decode over the mini checkpoint: what each stage gets of the prompt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from lighttts.v1 import encode_pb2, encode_pb2_grpc, llm_pb2, llm_pb2_grpc, voice_pb2
from services.common.errors import from_rpc_error
from services.common.pool import open_channel
from services.common.server import ServiceServer
from services.decode.server import DecodeService
from services.decode.settings import DecodeSettings
from services.encode.server import EncodeService
from services.encode.settings import EncodeSettings
from services.llm.server import LlmService
from services.llm.settings import LlmSettings

MINI = Path(__file__).parents[1] / "data" / "cosyvoice2-mini"
PROMPT = Path(__file__).parents[2] / "models" / "tiny" / "prompt_anna.wav"
SAMPLES_PER_TOKEN = 960
TEXT = (373, 298, 257)
TIMBRE = llm_pb2.PROMPT_USE_TIMBRE


@dataclass
class Services:
    encode: Any
    llm: Any

    async def voice(self, *audio: bytes, **prompt: Any) -> voice_pb2.VoiceContent:
        async def outgoing() -> AsyncIterator[encode_pb2.EncodeVoiceRequest]:
            yield encode_pb2.EncodeVoiceRequest(header=encode_pb2.EncodeVoiceHeader(**prompt))
            for part in audio:
                yield encode_pb2.EncodeVoiceRequest(audio=part)

        return (await self.encode.EncodeVoice(outgoing())).voice

    async def speak(self, voice: voice_pb2.VoiceContent, text: tuple[int, ...] = TEXT, **start: Any) -> Spoken:
        """One utterance of at most two seconds, to its end."""
        message = llm_pb2.GenerateStart(voice_hash=voice.voice_hash, seed=5, **start)
        message.sampling.max_seconds = 2.0
        call = self.llm.Generate()
        await call.write(llm_pb2.GenerateRequest(start=message))
        if text:
            await call.write(llm_pb2.GenerateRequest(text=llm_pb2.TextTokens(ids=text, last=True)))
        spoken = Spoken()
        while isinstance(response := await call.read(), llm_pb2.GenerateResponse):
            if response.HasField("need_voice"):
                await call.write(llm_pb2.GenerateRequest(voice=voice))
            elif response.HasField("audio"):
                spoken.pcm += response.audio.audio.pcm
                spoken.raw_ids += tuple(response.audio.raw_ids)
            elif response.HasField("done"):
                spoken.tokens = response.done.speech_tokens
        return spoken


@dataclass
class Spoken:
    pcm: bytes = b""
    raw_ids: tuple[int, ...] = ()
    tokens: int = 0

    @property
    def samples(self) -> int:
        return len(self.pcm) // 4


@pytest.fixture
async def services() -> AsyncIterator[Services]:
    async with AsyncExitStack() as stack, asyncio.timeout(400):

        async def serve(service: Any, settings: Any) -> str:
            server = ServiceServer(service, settings)
            stack.push_async_callback(server.close)
            await server.start()
            return server.address

        common: dict[str, Any] = {"port": 0, "model_dir": MINI, "drain_notice_seconds": 0.0}
        encode = EncodeSettings(normaliser="builtin", **common)
        decode = DecodeSettings(**common)
        decode_address = await serve(DecodeService(decode), decode)
        llm = LlmSettings(decode_target=f"static:///{decode_address}", **common)
        channels = [
            await stack.enter_async_context(open_channel(address))
            for address in (await serve(EncodeService(encode), encode), await serve(LlmService(llm), llm))
        ]
        yield Services(encode_pb2_grpc.EncodeStub(channels[0]), llm_pb2_grpc.LlmStub(channels[1]))


async def refused(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return from_rpc_error(caught.value).message


async def test_every_mode_speaks(services: Services) -> None:
    prompt = PROMPT.read_bytes()
    whole = await services.voice(prompt, transcript=PROMPT.with_suffix(".txt").read_text().strip())
    timbre = await services.voice(prompt, timbre_only=True)
    registered = await services.voice(bundled_voice="mini_a")
    instruction = (1, 2, 403)
    spoken = {
        "zero-shot": await services.speak(whole),
        "cross-lingual": await services.speak(timbre, prompt_use=TIMBRE),
        "instruct": await services.speak(timbre, prompt_use=TIMBRE, instruct_ids=instruction),
        "registered speaker": await services.speak(registered),
    }
    for name, speech in spoken.items():
        assert speech.tokens > 0, name
        assert speech.samples == SAMPLES_PER_TOKEN * speech.tokens, name
    # The llm hears the prompt, nothing, or the instruction; without a prompt the voice makes no difference to it.
    tokens = {name: speech.raw_ids for name, speech in spoken.items()}
    assert tokens["cross-lingual"] == tokens["registered speaker"]
    assert len(set(tokens.values())) == 3
    assert spoken["cross-lingual"].pcm != spoken["registered speaker"].pcm


async def test_a_recording_is_spoken_with_another_voice(services: Services) -> None:
    async def recording() -> AsyncIterator[encode_pb2.EncodeSpeechRequest]:
        yield encode_pb2.EncodeSpeechRequest(header=encode_pb2.EncodeSpeechHeader())
        yield encode_pb2.EncodeSpeechRequest(audio=PROMPT.read_bytes())

    source = list((await services.encode.EncodeSpeech(recording())).speech_tokens)
    voice = await services.voice(bundled_voice="mini_b")
    spoken = await services.speak(voice, text=(), speech_tokens=source)
    assert spoken.samples == SAMPLES_PER_TOKEN * len(source)
    assert spoken.tokens == len(source)
    assert spoken.raw_ids == ()
    again = await services.speak(voice, text=(), speech_tokens=source)
    # Its borders between chunks follow the time, so float32's rounding may differ.
    np.testing.assert_allclose(np.frombuffer(again.pcm, "<f4"), np.frombuffer(spoken.pcm, "<f4"), rtol=0, atol=1e-3)


async def test_speed_stretches_speech(services: Services) -> None:
    voice = await services.voice(bundled_voice="mini_a")
    source = list(range(50))
    for speed, samples in ((2.0, 24_000), (0.5, 96_000)):
        spoken = await services.speak(voice, text=(), speech_tokens=source, speed=speed)
        assert spoken.samples == samples


async def test_what_does_not_go_together_is_refused(services: Services) -> None:
    timbre = await services.voice(PROMPT.read_bytes(), timbre_only=True)
    assert "no transcript" in await refused(services.speak(timbre))
    assert "timbre alone" in await refused(services.speak(timbre, instruct_ids=(1, 2)))
    assert "out of range" in await refused(services.speak(timbre, text=(), speech_tokens=(0, 6561)))
    assert "takes no text" in await refused(services.speak(timbre, speech_tokens=(0, 1, 2) * 100))
    assert (await services.speak(timbre, prompt_use=TIMBRE)).samples
