"""Real services: nothing of a deleted voice stays in any of them, and running streams with it continue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.server import GatewayService
from gateway.settings import GatewaySettings
from lighttts.v1 import llm_pb2, tts_pb2, tts_pb2_grpc
from services.common.pool import open_channel
from services.common.server import ServiceServer
from services.decode.server import DecodeService
from services.decode.settings import DecodeSettings
from services.encode.server import EncodeService
from services.encode.settings import EncodeSettings
from services.llm.server import LlmService
from services.llm.settings import LlmSettings
from tests.support.llm import until

TINY = Path(__file__).parents[2] / "models" / "tiny"
QUICK: dict[str, Any] = {"port": 0, "drain_notice_seconds": 0.0}


@dataclass
class Running:
    """Two gateways over one encode, two llm and two decode workers."""

    gateways: list[GatewayService]
    encode: EncodeService
    llms: list[LlmService]
    decodes: list[DecodeService]
    channels: list[Any]

    def holders(self, voice_hash: str) -> list[str]:
        """Return the processes that hold data of a voice."""
        assert self.encode._state is not None
        kept = {
            "encode": voice_hash in self.encode._state.voices._cache,
            **{f"llm {n}": voice_hash in llm._ready.voices for n, llm in enumerate(self.llms)},
            **{f"gateway {n}": self._at_gateway(n, voice_hash) for n in range(len(self.gateways))},
        }
        for number, decode in enumerate(self.decodes):
            context: Any = decode._context
            prompts = {voice for voice, _ in context.engine._backend.prompts._states}
            kept[f"decode {number}"] = voice_hash in context.voices or voice_hash in prompts
        return [name for name, holds in kept.items() if holds]

    def _at_gateway(self, number: int, voice_hash: str) -> bool:
        return self.gateways[number]._context.voices._voice_deletion.holds(voice_hash)

    def voices(self, gateway: int = 0) -> Any:
        return tts_pb2_grpc.VoicesStub(self.channels[gateway])

    async def register(self) -> None:
        transcript = (TINY / "prompt_anna.txt").read_text(encoding="utf-8").strip()
        header = tts_pb2.CreateVoiceHeader(name="mine", transcript=transcript, consent=True)
        # One sample more than the model's own recording, because an identical one would be the bundled voice.
        audio = (TINY / "prompt_anna.wav").read_bytes() + b"\0\0"
        await self.voices().CreateVoice(
            iter([tts_pb2.CreateVoiceRequest(header=header), tts_pb2.CreateVoiceRequest(audio=audio)])
        )

    def say(self, text: str, gateway: int = 0) -> Any:
        config = tts_pb2.SynthesisConfig(voice_name="mine", seed=1, sampling=llm_pb2.SamplingOptions(max_seconds=2.0))
        stub = tts_pb2_grpc.TextToSpeechStub(self.channels[gateway])
        return stub.Synthesize(tts_pb2.SynthesizeRequest(config=config, text=text))


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with asyncio.timeout(400), AsyncExitStack() as stack:

        async def serve(service: Any, settings: Any) -> str:
            server = ServiceServer(service, settings)
            stack.push_async_callback(server.close)
            await server.start()
            return server.address

        settings = DecodeSettings(**QUICK)
        decodes = [DecodeService(settings) for _ in "ab"]
        target = "static:///" + ",".join([await serve(decode, settings) for decode in decodes])
        llm_settings = LlmSettings(**QUICK, decode_target=target)
        llms = [LlmService(llm_settings) for _ in "ab"]
        llm_target = "static:///" + ",".join([await serve(llm, llm_settings) for llm in llms])
        encode = EncodeService(EncodeSettings(**QUICK))
        encode_target = f"static:///{await serve(encode, EncodeSettings(**QUICK))}"
        front = GatewaySettings(
            **QUICK,
            http_port=0,
            cosyvoice_port="off",
            encode_target=encode_target,
            llm_target=llm_target,
            voices_dir=tmp_path,
            result_cache="memory",
            model_poll_seconds=0.2,
        )
        gateways = [GatewayService(front) for _ in "ab"]
        addresses = [await serve(gateway, front) for gateway in gateways]
        channels = [await stack.enter_async_context(open_channel(address)) for address in addresses]
        pools = [gateway._context.llm for gateway in gateways] + [llm._ready.pool for llm in llms]
        await until(lambda: all(len(pool.serving()) == 2 for pool in pools))
        yield Running(gateways, encode, llms, decodes, channels)


async def test_a_deleted_voice_is_evicted_everywhere_and_its_stream_continues(running: Running) -> None:
    await running.register()
    for gateway in (0, 1):
        for text in ("Good.", "Fine."):  # round robin over both llm and both decode workers
            spoken = [event async for event in running.say(text, gateway)]
            voice_hash = spoken[0].started.voice_hash
    held = running.holders(voice_hash)
    assert len(held) == 7, held
    speaking = running.say("This one is still being spoken. And this one comes behind it.")
    events = aiter(speaking)
    while not (await anext(events)).HasField("audio"):
        pass
    await running.voices().DeleteVoice(tts_pb2.DeleteVoiceRequest(voice="mine"))
    rest = [event async for event in events]
    assert rest[-1].HasField("finished")
    await until(lambda: not running.holders(voice_hash))
    # A deleted voice can be registered again.
    await running.register()
    again = [event async for event in running.say("Yes.", 1)]
    assert again[-1].finished.audio_seconds > 0.2
