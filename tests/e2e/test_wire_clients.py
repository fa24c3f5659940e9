"""Clients of LightTTS and CosyVoice, written from their wire contracts, with the preamble of CosyVoice3's texts:
against the embedded voice, which lacks its token, and against the mini checkpoints in the official layout."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import numpy as np
import pytest
import pytest_asyncio
import soundfile
import websockets

from cli.local.stack import Stack, StackConfig
from lighttts.compat import cosyvoice_pb2 as pb
from lighttts.compat import cosyvoice_pb2_grpc
from services.common.settings import EMBEDDED_MODEL
from services.encode.voice.features import resample
from tests.support.mini_stack import MiniStack

DATA = Path(__file__).parents[1] / "data"
PROMPT = EMBEDDED_MODEL / "prompt_anna.wav"
WORDS = PROMPT.with_suffix(".txt").read_text(encoding="utf-8").strip()
PREAMBLE = "You are a helpful assistant.<|endofprompt|>"
PREFIXES = {2: "", 3: PREAMBLE}
"""Text that the clients put before the transcript, by the value of their option `cosyvoice_version`."""
TEXT = "Hi, Alice."
"""Short, because random weights speak as long as a text of its length may last."""


def has_sound(audio: bytes) -> bool:
    samples = np.frombuffer(audio, "<i2")
    return len(samples) > 2400 and np.abs(samples).max() > 0


async def lighttts_http(stack: Stack, version: int) -> httpx.Headers:
    """`test_zero_shot.py`: one form, streamed; return the answer's headers."""
    form = {"tts_text": TEXT, "prompt_text": PREFIXES[version] + WORDS, "stream": "True", "tts_model_name": "default"}
    files = {"prompt_wav": ("prompt.wav", PROMPT.read_bytes(), "audio/wav")}
    async with httpx.AsyncClient(base_url=stack.http_url, trust_env=False, timeout=400) as http:
        answer = await http.post("/inference_zero_shot", data=form, files=files)
    assert answer.status_code == 200, answer.text
    assert has_sound(answer.content)
    return answer.headers


async def lighttts_socket(stack: Stack, version: int) -> None:
    """`test_zero_shot_bistream.py`: text word by word."""
    url = stack.http_url.replace("http", "ws", 1) + "/inference_zero_shot_bistream"
    async with websockets.connect(url, max_size=None) as socket:
        await socket.send(json.dumps({"prompt_text": PREFIXES[version] + WORDS, "tts_model_name": "default"}))
        await socket.send(PROMPT.read_bytes())
        for word in TEXT.split():
            await socket.send(json.dumps({"tts_text": f"{word} "}))
        await socket.send(json.dumps({"finish": True}))
        audio = b"".join([part async for part in socket if isinstance(part, bytes)])
    assert socket.close_code == 1000
    assert has_sound(audio)


async def cosyvoice_grpc(stack: Stack, version: int, voices: tuple[str, ...]) -> None:
    """`client.py`: bare samples at 16 kHz; with version 3 a text without transcript carries the preamble."""
    samples, rate = soundfile.read(PROMPT, dtype="float32")
    prompt = (resample(samples, rate, 16000) * 32767).astype("<i2").tobytes()
    prefix = PREFIXES[version]
    requests = [
        pb.Request(
            zero_shot_request=pb.zeroshotRequest(tts_text=TEXT, prompt_text=prefix + WORDS, prompt_audio=prompt)
        ),
        pb.Request(cross_lingual_request=pb.crosslingualRequest(tts_text=prefix + TEXT, prompt_audio=prompt)),
        *(pb.Request(sft_request=pb.sftRequest(spk_id=voice, tts_text=TEXT)) for voice in voices),
    ]
    async with grpc.aio.insecure_channel(stack.cosyvoice_address) as channel:
        stub: Any = cosyvoice_pb2_grpc.CosyVoiceStub(channel)
        for request in requests:
            assert has_sound(b"".join([response.tts_audio async for response in stub.Inference(request)]))


async def cosyvoice_http(stack: Stack, version: int) -> None:
    """The client of the FastAPI server: GET with a body."""
    prefix, files = PREFIXES[version], {"prompt_wav": PROMPT.read_bytes()}
    instruction = f"{PREAMBLE[:-15]} Please speak slowly.<|endofprompt|>" if version == 3 else "speak slowly"
    async with httpx.AsyncClient(base_url=f"http://{stack.cosyvoice_address}", trust_env=False, timeout=400) as http:
        for path, form in (
            ("zero_shot", {"tts_text": TEXT, "prompt_text": prefix + WORDS}),
            ("cross_lingual", {"tts_text": prefix + TEXT}),
            ("instruct2", {"tts_text": TEXT, "instruct_text": instruction}),
        ):
            answer = await http.request("GET", f"/inference_{path}", data=form, files=files)
            assert answer.status_code == 200, answer.text
            assert has_sound(answer.content)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def third(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """A stack on the mini CosyVoice3 checkpoint."""
    logs = tmp_path_factory.mktemp("third")
    config = StackConfig(model_dir=DATA / "cosyvoice3-mini", decode_workers=1, log_dir=logs, restart_dead=False)
    async with Stack(config) as stack:
        yield stack


async def every_client(stack: Stack, version: int, voices: tuple[str, ...] = ()) -> httpx.Headers:
    """Let every client speak; return the headers of the answer over HTTP."""
    headers = await lighttts_http(stack, version)
    await lighttts_socket(stack, version)
    await cosyvoice_grpc(stack, version, voices)
    await cosyvoice_http(stack, version)
    return headers


@pytest.mark.asyncio(loop_scope="session")
async def test_clients_of_version_2_with_such_a_checkpoint(mini: MiniStack) -> None:
    headers = await every_client(mini.stack, 2, ("mini_a", "mini_b"))
    assert "preamble" not in headers.get("x-light-tts-warning", "")


@pytest.mark.asyncio(loop_scope="session")
async def test_clients_of_version_3_with_such_a_checkpoint(third: Stack) -> None:
    headers = await every_client(third, 3)
    assert "preamble" not in headers.get("x-light-tts-warning", "")


@pytest.mark.asyncio(loop_scope="session")
async def test_clients_of_version_2_with_the_embedded_voice(stack: Stack) -> None:
    """Clients of LightTTS; test_cosyvoice_client.py has those of CosyVoice."""
    headers = await lighttts_http(stack, 2)
    assert "preamble_dropped" not in headers.get("x-light-tts-warning", "")
    await lighttts_socket(stack, 2)


@pytest.mark.asyncio(loop_scope="session")
async def test_clients_of_version_3_with_the_embedded_voice(stack: Stack) -> None:
    headers = await every_client(stack, 3, ("anna",))
    assert "preamble_dropped" in headers.get("x-light-tts-warning", "")
