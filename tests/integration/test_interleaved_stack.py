"""Encode, llm, decode and gateway together: speech begins before the text ends, and between sentences is no gap.

The checkpoint for text streaming is the goldens', whose weights are random: what is heard of it is noise, and when it
is heard is what counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from gateway.server import GatewayService
from gateway.settings import GatewaySettings
from lighttts.v1 import audio_pb2, llm_pb2, tts_pb2, tts_pb2_grpc
from services.common.pool import open_channel
from services.common.server import ServiceServer
from services.decode.server import DecodeService
from services.decode.settings import DecodeSettings
from services.encode.server import EncodeService
from services.encode.settings import EncodeSettings
from services.llm.server import LlmService
from services.llm.settings import LlmSettings
from tests.support.fake_stages import samples
from tests.support.llm import metric, until

ROOT = Path(__file__).parents[2]
MINIS = [ROOT / "tests" / "data" / f"{family}-mini" for family in ("cosyvoice2", "cosyvoice3")]
TINY = ROOT / "models" / "tiny"
LIMIT_SECONDS = 400
SAMPLES_PER_TOKEN = 960
SECONDS = 4.0
"""Longest utterance: random weights do not end by themselves."""
QUICK: dict[str, Any] = {"port": 0, "drain_notice_seconds": 0.0}


@asynccontextmanager
async def stack(model_dir: Path, *, interleaved: bool = True, **llm: Any) -> AsyncIterator[Any]:
    """The real four services in this process; a stub of the gateway's API."""
    torch.set_num_threads(1)
    async with asyncio.timeout(LIMIT_SECONDS), AsyncExitStack() as opened:

        async def serve(service: Any, settings: Any) -> str:
            server = ServiceServer(service(settings), settings)
            opened.push_async_callback(server.close)
            await server.start()
            return f"static:///{server.address}"

        model = QUICK | {"model_dir": model_dir}
        decode = await serve(DecodeService, DecodeSettings(**model))
        speech = await serve(LlmService, LlmSettings(**model, decode_target=decode, **llm))
        encode = await serve(EncodeService, EncodeSettings(**model))
        targets: dict[str, Any] = {"encode_target": encode, "llm_target": speech}
        front: dict[str, Any] = {"http_port": 0, "cosyvoice_port": "off", "interleaved_text": interleaved}
        gateway = await serve(GatewayService, GatewaySettings(**QUICK, **targets, **front))
        channel = await opened.enter_async_context(open_channel(gateway.removeprefix("static:///")))
        yield tts_pb2_grpc.TextToSpeechStub(channel)


def config() -> tts_pb2.SynthesisConfig:
    voice = ROOT / "models" / "tiny"
    transcript = (voice / "prompt_anna.txt").read_text(encoding="utf-8").strip()
    return tts_pb2.SynthesisConfig(
        prompt=tts_pb2.Prompt(audio=(voice / "prompt_anna.wav").read_bytes(), transcript=transcript),
        seed=3,
        format=audio_pb2.SAMPLE_FORMAT_F32LE,
        sampling=llm_pb2.SamplingOptions(max_seconds=SECONDS),
    )


TEXT = "this is a rather long text that comes word by word and does not wait for its end"
WORDS = [f"{word} " for word in TEXT.split()]


@pytest.mark.parametrize("model_dir", MINIS, ids=lambda path: path.name)
async def test_speech_begins_before_the_text_ends(model_dir: Path) -> None:
    async with stack(model_dir) as tts:
        call = tts.StreamingSynthesize()
        await call.write(tts_pb2.StreamingSynthesizeRequest(config=config()))
        events: list[Any] = []
        for word in WORDS[:-3]:
            await call.write(tts_pb2.StreamingSynthesizeRequest(text=word))
        while not any(isinstance(event, audio_pb2.AudioChunk) for event in events):
            events.append(await next_event(call))
        for word in WORDS[-3:]:
            await call.write(tts_pb2.StreamingSynthesizeRequest(text=word))
        await call.write(tts_pb2.StreamingSynthesizeRequest(end=tts_pb2.End()))
        while not isinstance(events[-1], tts_pb2.Finished):
            events.append(await next_event(call))
        await until(lambda: metric("lighttts_llm_kv_blocks_used") == 0)
    seconds = len(samples(events)) / 24000
    spoken = [event for event in events if isinstance(event, tts_pb2.Spoken)]
    assert len(spoken) == 1, "all of it is one utterance"
    assert spoken[0].text_offset == len("".join(WORDS))
    assert 1.0 < seconds <= SECONDS


SENTENCES = "We do not tell. And who is this person? The weather is warm on Friday."


async def test_the_next_sentence_is_ready_when_one_has_been_delivered(tmp_path: Path) -> None:
    """By the time a sentence has been handed out, speech of the next is there: counted, so that no clock matters."""
    costs = tmp_path / "costs.json"
    costs.write_text('{"step_s": 0, "step_s_per_sequence": 0, "prefill_s_per_token": 0, "tokens_per_text_id": 8}')
    async with stack(TINY, interleaved=False, llm_backend="simulated", llm_cost_file=costs) as tts:
        before = metric("lighttts_llm_tokens_generated_total")
        call = tts.StreamingSynthesize()
        await call.write(tts_pb2.StreamingSynthesizeRequest(config=config()))
        await call.write(tts_pb2.StreamingSynthesizeRequest(text=SENTENCES))
        await call.write(tts_pb2.StreamingSynthesizeRequest(end=tts_pb2.End()))
        events: list[Any] = []
        ahead: list[float] = []
        while not (events and isinstance(events[-1], tts_pb2.Finished)):
            events.append(await next_event(call))
            if isinstance(events[-1], tts_pb2.Spoken):
                generated = metric("lighttts_llm_tokens_generated_total") - before
                ahead.append(generated - events[-1].sample / SAMPLES_PER_TOKEN)
    assert len(ahead) == 3
    assert min(ahead[:-1]) >= 28, "a first hop at least"
    assert ahead[-1] == 0


async def next_event(call: Any) -> Any:
    response = await call.read()
    assert isinstance(response, tts_pb2.StreamingSynthesizeResponse), "the stream ended early"
    return getattr(response, response.WhichOneof("event") or "")
