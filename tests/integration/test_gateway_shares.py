"""The share of one key in what all keys use, and quotas that are counted before any work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from gateway.auth.keys import key_hash
from lighttts.v1 import tts_pb2
from tests.support.fake_stages import Rig, rig, until
from tests.support.redis_server import redis_server

KEYS = {"a": "ltts_key-of-a", "b": "ltts_key-of-b"}
Status = grpc.StatusCode


def keys(folder: Path, limits: str = "") -> Path:
    path = folder / "keys.yaml"
    entries = [f"- {{name: {name}, sha256: {key_hash(key)}{limits}}}" for name, key in KEYS.items()]
    path.write_text("\n".join(["keys:", *entries]))
    return path


def of(name: str) -> tuple[tuple[str, str], ...]:
    return (("x-api-key", KEYS[name]),)


def header(name: str) -> tts_pb2.CreateVoiceRequest:
    return tts_pb2.CreateVoiceRequest(header=tts_pb2.CreateVoiceHeader(name=name, transcript="hello", consent=True))


async def upload(r: Rig, key: str, name: str) -> Any:
    call = r.voices.CreateVoice(metadata=of(key))
    await call.write(header(name))
    return call


async def register(r: Rig, key: str) -> tts_pb2.CreateVoiceResponse:
    parts = [header("Mine"), tts_pb2.CreateVoiceRequest(audio=b"RIFF" * 100)]
    return await r.voices.CreateVoice(iter(parts), metadata=of(key))


async def test_silent_uploads_of_one_key_do_not_block_another_key(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_uploads": 8, "max_uploads_per_key": 2, "voices_dir": tmp_path / "voices"}
    async with rig(api_keys_file=keys(tmp_path), **settings) as r:
        silent = [await upload(r, "a", f"Silent{number}") for number in range(8)]
        ended = [asyncio.ensure_future(call.code()) for call in silent]
        await until(lambda: sum(code.done() for code in ended) == 6)
        assert {code.result() for code in ended if code.done()} == {Status.RESOURCE_EXHAUSTED}
        with pytest.raises(grpc.aio.AioRpcError, match="key 'a' may use 2 voice uploads"):
            await register(r, "a")
        await register(r, "b")
        for call in silent:
            call.cancel()
        await asyncio.wait(ended)


async def test_an_upload_that_falls_silent_is_ended(tmp_path: Path) -> None:
    async with rig(api_keys_file=keys(tmp_path), first_message_seconds=0.5, voices_dir=tmp_path / "voices") as r:
        call = await upload(r, "a", "Silent")
        with pytest.raises(grpc.aio.AioRpcError, match=r"no part of it arrived for 0\.5 s") as refusal:
            await call
        assert refusal.value.code() == Status.DEADLINE_EXCEEDED


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.system)])
async def quotas(request: pytest.FixtureRequest) -> AsyncIterator[dict[str, Any]]:
    """Settings that count quotas in the process or in Redis."""
    if request.param == "memory":
        yield {}
        return
    async with redis_server() as url:
        yield {"redis_url": url}


def prompt(number: int) -> tts_pb2.SynthesizeRequest:
    config = tts_pb2.SynthesisConfig(seed=7)
    config.prompt.audio, config.prompt.transcript = b"RIFF%d" % number, f"voice {number}"
    return tts_pb2.SynthesizeRequest(config=config, text="Hi.")


async def speak(r: Rig, number: int, key: str) -> grpc.StatusCode:
    call = r.tts.Synthesize(prompt(number), metadata=of(key))
    try:
        _ = [response async for response in call]
    except grpc.aio.AioRpcError as error:
        return error.code()
    return Status.OK


async def test_with_the_result_cache_on_a_key_out_of_quota_has_no_voice_extracted(
    tmp_path: Path, quotas: dict[str, Any]
) -> None:
    limits = ", requests_per_minute: 0.001, burst: 2"
    async with rig(api_keys_file=keys(tmp_path, limits), result_cache="memory", **quotas) as r:
        ends = await asyncio.gather(*(speak(r, number, "a") for number in range(20)))
        assert sorted(code.name for code in ends) == ["OK"] * 2 + ["RESOURCE_EXHAUSTED"] * 18
        assert len(r.encode.uploads) == 2


async def test_cached_speech_counts_one_request_whether_spoken_or_remembered(
    tmp_path: Path, quotas: dict[str, Any]
) -> None:
    limits = ", requests_per_minute: 0.001, burst: 3"
    async with rig(api_keys_file=keys(tmp_path, limits), result_cache="memory", **quotas) as r:
        ends = [await speak(r, 1, "a") for _ in range(4)]
        assert ends == [Status.OK, Status.OK, Status.OK, Status.RESOURCE_EXHAUSTED]
        assert len(r.llm.calls) == 1
