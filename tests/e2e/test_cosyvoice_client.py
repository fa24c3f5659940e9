"""Clients of CosyVoice's servers, written from its wire contract, against a running stack, over both protocols.

The embedded model follows no instructions and says so; tests/integration has models that do.
"""

from __future__ import annotations

from typing import Any

import grpc.aio
import httpx
import numpy as np
import pytest
import soundfile

from cli.local.stack import Stack
from lighttts.compat import cosyvoice_pb2 as pb
from lighttts.compat import cosyvoice_pb2_grpc
from services.common.settings import EMBEDDED_MODEL
from services.encode.voice.features import resample

PROMPT = EMBEDDED_MODEL / "prompt_anna.wav"
PROMPT_TEXT = PROMPT.with_suffix(".txt").read_text(encoding="utf-8").strip()


def prompt_samples() -> bytes:
    """The prompt as these clients send it: headerless s16le at 16 kHz."""
    samples, rate = soundfile.read(PROMPT, dtype="float32")
    return (resample(samples, rate, 16000) * 32767).astype("<i2").tobytes()


def check(audio: bytes, text: str) -> None:
    samples = np.frombuffer(audio, "<i2") / np.float32(32768)
    assert 0.02 * len(text) < len(samples) / 22050 < 0.5 * len(text)
    assert np.abs(samples).max() > 0.05


@pytest.mark.asyncio(loop_scope="session")
async def test_modes_over_grpc(stack: Stack) -> None:
    text, prompt = "Good morning, Alice.", prompt_samples()
    requests = (
        pb.Request(sft_request=pb.sftRequest(spk_id="hugo", tts_text=text)),
        pb.Request(zero_shot_request=pb.zeroshotRequest(tts_text=text, prompt_text=PROMPT_TEXT, prompt_audio=prompt)),
        pb.Request(cross_lingual_request=pb.crosslingualRequest(tts_text=text, prompt_audio=prompt)),
    )
    async with grpc.aio.insecure_channel(stack.cosyvoice_address) as channel:
        stub: Any = cosyvoice_pb2_grpc.CosyVoiceStub(channel)
        for request in requests:
            check(b"".join([response.tts_audio async for response in stub.Inference(request)]), text)
        instruct = pb.instructRequest(tts_text=text, spk_id="anna", instruct_text="slowly")
        call = stub.Inference(pb.Request(instruct_request=instruct))
        check(b"".join([response.tts_audio async for response in call]), text)
        notes = [value for key, value in await call.trailing_metadata() if key == "x-light-tts-warning"]
        assert any(note.startswith("instructions_ignored") for note in notes)


@pytest.mark.asyncio(loop_scope="session")
async def test_modes_over_http_with_get(stack: Stack) -> None:
    text, prompt = {"tts_text": "Good morning, Alice."}, {"prompt_wav": PROMPT.read_bytes()}
    async with httpx.AsyncClient(base_url=f"http://{stack.cosyvoice_address}", trust_env=False, timeout=400) as http:
        for path, form, files in (
            ("sft", {"spk_id": "hugo"}, None),
            ("zero_shot", {"prompt_text": PROMPT_TEXT}, prompt),
            ("cross_lingual", {}, prompt),
        ):
            response = await http.request("GET", f"/inference_{path}", data=text | form, files=files)
            assert response.status_code == 200, response.text
            check(response.content, text["tts_text"])
        for path, form, files in (("instruct", {"spk_id": "anna"}, None), ("instruct2", {}, prompt)):
            form = text | form | {"instruct_text": "slowly"}
            response = await http.request("GET", f"/inference_{path}", data=form, files=files)
            assert response.status_code == 200, response.text
            assert response.headers["x-light-tts-warning"].startswith("instructions_ignored")
            check(response.content, text["tts_text"])
