"""A rolling upgrade: for a while, gateways and workers of this version serve together with those of the last release.

`tests.support.released` stands for the peers of the release.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.server import GatewayService
from gateway.settings import GatewaySettings
from lighttts.v1 import audio_pb2, tts_pb2, tts_pb2_grpc
from services.common.pool import open_channel
from services.common.server import ServiceServer
from services.decode.server import DecodeService
from services.decode.settings import DecodeSettings
from services.encode.server import EncodeService
from services.encode.settings import EncodeSettings
from services.llm.server import LlmService
from services.llm.settings import LlmSettings
from tests.support.fake_stages import samples
from tests.support.released import Protos, last_release, released_peer

ROOT = Path(__file__).parents[2]
TINY = ROOT / "models" / "tiny"
LIMIT_SECONDS = 400
TEXT = "The train leaves at 9. Who knows?"
# Names of the connections: client and server.
ENCODE, LLM, DECODE, GATEWAY = "gateway to encode", "gateway to llm", "llm to decode", "application to gateway"


@asynccontextmanager
async def stack(scratch: Path, protos: Protos, *mixed: str) -> AsyncIterator[grpc.aio.Channel]:
    """Start all four services with simulated backends. One end of each connection in `mixed` is of the release."""
    costs = scratch / "llm.json"
    costs.write_text('{"step_s": 0, "step_s_per_sequence": 0, "prefill_s_per_token": 0, "tokens_per_text_id": 4}')
    decode_costs = scratch / "decode.json"
    decode_costs.write_text('{"batch_s": 0, "stream_s": 0, "frame_s": 0}')
    model: dict[str, Any] = {"port": 0, "drain_notice_seconds": 0.0, "model_dir": TINY}
    async with asyncio.timeout(LIMIT_SECONDS), AsyncExitStack() as opened:

        async def serve(name: str, service: Any, settings: Any) -> str:
            server = ServiceServer(service(settings), settings)
            opened.push_async_callback(server.close)
            await server.start()
            if name not in mixed:
                return server.address
            return await opened.enter_async_context(released_peer(protos, server.address))

        simulated: dict[str, Any] = {"decode_backend": "simulated", "decode_cost_file": decode_costs}
        decode = await serve(DECODE, DecodeService, DecodeSettings(**model, **simulated))
        simulated = {"llm_backend": "simulated", "llm_cost_file": costs, "decode_target": f"static:///{decode}"}
        llm = await serve(LLM, LlmService, LlmSettings(**model, **simulated))
        encode = await serve(
            ENCODE, EncodeService, EncodeSettings(**model, normaliser="builtin", text_idle_seconds=1000)
        )
        gateway_settings = GatewaySettings(
            port=0,
            http_port=0,
            cosyvoice_port="off",
            drain_notice_seconds=0.0,
            voices_dir=scratch / "voices",
            encode_target=f"static:///{encode}",
            llm_target=f"static:///{llm}",
        )
        gateway = await serve(GATEWAY, GatewayService, gateway_settings)
        yield await opened.enter_async_context(open_channel(gateway))


async def speech(channel: grpc.aio.Channel) -> list[NDArray[np.float32]]:
    """Return the audio of a synthesis, of a conversation and of a conversion."""
    tts = tts_pb2_grpc.TextToSpeechStub(channel)
    recording = (TINY / "prompt_anna.wav").read_bytes()
    prompt = tts_pb2.Prompt(audio=recording, transcript=(TINY / "prompt_anna.txt").read_text().strip())
    config = tts_pb2.SynthesisConfig(prompt=prompt, seed=3, format=audio_pb2.SAMPLE_FORMAT_F32LE)

    async def conversation() -> AsyncIterator[tts_pb2.StreamingSynthesizeRequest]:
        yield tts_pb2.StreamingSynthesizeRequest(config=config)
        for word in TEXT.split(" "):
            yield tts_pb2.StreamingSynthesizeRequest(text=f"{word} ")
        yield tts_pb2.StreamingSynthesizeRequest(flush=tts_pb2.Flush())
        yield tts_pb2.StreamingSynthesizeRequest(end=tts_pb2.End())

    calls: list[AsyncIterator[Any]] = [
        aiter(tts.Synthesize(tts_pb2.SynthesizeRequest(config=config, text=TEXT))),
        aiter(tts.StreamingSynthesize(conversation())),
        aiter(tts.ConvertVoice(tts_pb2.ConvertVoiceRequest(config=config, audio=recording))),
    ]
    spoken = []
    for call in calls:
        events = [getattr(response, response.WhichOneof("event")) async for response in call]
        assert isinstance(events[-1], tts_pb2.Finished)
        spoken.append(samples(events))
    return spoken


async def test_every_mixture_of_versions_speaks_alike(tmp_path: Path) -> None:
    protos = Protos(last_release(), tmp_path)
    async with stack(tmp_path, protos) as channel:
        expected = await speech(channel)
    assert all(len(audio) > 24000 for audio in expected)
    for mixed in ([ENCODE, LLM], [DECODE], [GATEWAY]):
        async with stack(tmp_path, protos, *mixed) as channel:
            for audio, same in zip(await speech(channel), expected, strict=True):
                assert np.array_equal(audio, same), mixed


async def test_a_changed_field_number_breaks_the_mixture(tmp_path: Path) -> None:
    """With one number of the released protos changed, the stack does not speak: the test above would fail."""
    changed = tmp_path / "changed"
    shutil.copytree(last_release(), changed)
    source = changed / "lighttts" / "v1" / "encode.proto"
    field = "bytes audio = 2"
    assert field in source.read_text()
    source.write_text(source.read_text().replace(field, "bytes audio = 99"))
    async with stack(tmp_path, Protos(changed, tmp_path), ENCODE) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await speech(channel)


def test_the_wire_of_the_release_is_kept(tmp_path: Path) -> None:
    """Every field, enum value and method of the release exists with the same number and type."""
    ours = set(Protos(ROOT / "protos", tmp_path).elements())
    assert set(Protos(last_release(), tmp_path).elements()) <= ours
