"""Registered voices over the wire: registration, use, deletion, and errors of clients."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import structlog
from prometheus_client import REGISTRY

from gateway.auth.keys import key_hash
from gateway.voices.directory_store import DirectoryStore
from lighttts.compat import riva_tts_pb2, riva_tts_pb2_grpc
from lighttts.v1 import tts_pb2
from services.common.errors import Overloaded
from services.common.server import ServiceServer
from services.common.settings import ServiceSettings
from tests.support.fake_stages import Rig, Script, rig, until
from tests.support.redis_server import redis_server
from tests.support.second_gateway import second_gateway

Status = grpc.StatusCode
AUDIO = bytes(range(256)) * 1000
KEYS = {"a": "key-of-a", "b": "key-of-b"}


def requests(
    *parts: bytes, header: dict[str, Any] | None = None, **fields: Any
) -> Iterable[tts_pb2.CreateVoiceRequest]:
    known = {"name": "Mine", "transcript": "hello", "consent": True} if header is None else header
    yield tts_pb2.CreateVoiceRequest(header=tts_pb2.CreateVoiceHeader(**(known | fields)))
    for part in parts:
        yield tts_pb2.CreateVoiceRequest(audio=part)


async def create(r: Rig, *parts: bytes, key: str = "", **fields: Any) -> tts_pb2.CreateVoiceResponse:
    call = r.voices.CreateVoice(iter(requests(*(parts or (AUDIO,)), **fields)), metadata=credentials(key))
    return await call


def credentials(key: str) -> tuple[tuple[str, str], ...]:
    return (("x-api-key", KEYS[key]),) if key else ()


async def say(r: Rig, voice: str, key: str = "") -> list[Any]:
    config = tts_pb2.SynthesisConfig(voice_name=voice, seed=1)
    call = r.tts.Synthesize(tts_pb2.SynthesizeRequest(config=config, text="Hi."), metadata=credentials(key))
    return [getattr(response, response.WhichOneof("event") or "") async for response in call]


@contextlib.contextmanager
def refused(code: grpc.StatusCode, words: str) -> Any:
    with pytest.raises(grpc.aio.AioRpcError, match=words) as refusal:
        yield
    assert refusal.value.code() == code, refusal.value.details()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.yaml"
    entries = [f"- {{name: {name}, sha256: {key_hash(key)}}}" for name, key in KEYS.items()]
    path.write_text("\n".join(["keys:", *entries]))
    return path


async def test_a_registered_voice_speaks_and_survives_the_gateway(tmp_path: Path) -> None:
    async with rig(voices_dir=tmp_path) as r:
        created = await create(r, AUDIO[:1000], AUDIO[1000:], description="of a test", languages=["en"])
        voice = created.voice
        assert (voice.name, voice.transcript, list(voice.warnings)) == ("Mine", "hello", ["a bit quiet"])
        assert not created.existed
        ((_, parts),) = r.encode.uploads
        assert b"".join(parts) == AUDIO
    async with rig(voices_dir=tmp_path) as r:
        listed = await r.voices.ListVoices(tts_pb2.ListVoicesRequest())
        assert [known.name for known in listed.voices] == ["hugo", "anna", "Mine"]
        assert listed.voices[2] == (await r.voices.GetVoice(tts_pb2.GetVoiceRequest(voice=voice.id))).voice == voice
        for name in ("Mine", voice.id):
            assert (await say(r, name))[0].voice_hash == "hash of hello"
        assert r.encode.uploads == [], "the content extracted at registration is stored"


async def test_every_api_speaks_with_a_registered_voice(tmp_path: Path) -> None:
    async with rig(voices_dir=tmp_path, cosyvoice_port=0) as r:
        await create(r)
        await say(r, "Mine")
        riva = riva_tts_pb2_grpc.RivaSpeechSynthesisStub(r.channel)
        await riva.Synthesize(riva_tts_pb2.SynthesizeSpeechRequest(text="Hi.", voice_name="lighttts.Mine"))
        cosyvoice = f"http://127.0.0.1:{r.gateway.cosyvoice_port}/inference_sft"
        for answer in (
            await r.http.post("/v1/audio/speech", json={"input": "Hi.", "voice": "Mine"}),
            await r.http.post("/synthesize_batch", json={"texts": ["Hi."], "voice": "Mine"}),
            await r.http.post(cosyvoice, data={"tts_text": "Hi.", "spk_id": "Mine"}),
        ):
            assert (answer.status_code, len(answer.content) > 100) == (200, True), answer.text
        assert [call.start.voice_hash for call in r.llm.calls] == ["hash of hello"] * 5


async def test_another_model_extracts_a_voice_again_once(tmp_path: Path) -> None:
    async with rig(voices_dir=tmp_path) as r:
        await create(r)
    for extractions in (1, 0):
        async with rig(voices_dir=tmp_path) as r:
            r.encode.identity = "model-2"
            await r.gateway._context.voices.refresh()
            await say(r, "Mine")
            assert len(r.encode.uploads) == extractions


async def test_registering_again_changes_nothing(tmp_path: Path) -> None:
    async with rig(voices_dir=tmp_path) as r:
        first, again = await create(r), await create(r, AUDIO[:7], AUDIO[7:])
        assert again.existed
        assert again.voice == first.voice
        assert len(r.encode.uploads) == 1
        with refused(Status.ALREADY_EXISTS, "as 'Mine'"):
            await create(r, name="Other")
        with refused(Status.ALREADY_EXISTS, "another voice named 'Mine'"):
            await create(r, b"other audio")
        with refused(Status.ALREADY_EXISTS, "voice of the model"):
            await create(r, name="hugo")


async def test_a_voice_belongs_to_its_owner(tmp_path: Path, key_file: Path) -> None:
    async with rig(voices_dir=tmp_path / "voices", api_keys_file=key_file) as r:
        voice = (await create(r, key="a")).voice
        await say(r, "Mine", key="a")
        for name in ("Mine", voice.id):
            with refused(Status.NOT_FOUND, r"known voices: anna, hugo\""):
                await say(r, name, key="b")
            with refused(Status.NOT_FOUND, "you have no voice"):
                await r.voices.DeleteVoice(tts_pb2.DeleteVoiceRequest(voice=name), metadata=credentials("b"))
        assert (await create(r, key="b")).voice.id == voice.id, "one id, and a record per owner"
        await r.voices.DeleteVoice(tts_pb2.DeleteVoiceRequest(voice="Mine"), metadata=credentials("b"))
        await say(r, "Mine", key="a")


@pytest.fixture(params=["directory", pytest.param("redis", marks=pytest.mark.system)])
async def shared(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[dict[str, Any]]:
    """Settings of gateways that share their voices."""
    if request.param == "directory":
        yield {"voices_dir": tmp_path}
        return
    async with redis_server() as url:
        yield {"voice_store": "redis", "redis_url": url}


async def test_a_deleted_voice_is_unusable_at_every_gateway(shared: dict[str, Any]) -> None:
    async with rig(**shared) as one, second_gateway(one, **shared, model_poll_seconds=0.02) as other:
        await create(one)
        await say(other, "Mine")
        memory = other.gateway._context.voices._memory
        assert memory.holds("hash of hello")
        await one.voices.DeleteVoice(tts_pb2.DeleteVoiceRequest(voice="Mine"))
        for r in (one, other):
            with refused(Status.NOT_FOUND, "no voice 'Mine'"):
                await say(r, "Mine")
        await until(lambda: not memory.holds("hash of hello"))
        with refused(Status.NOT_FOUND, "you have no voice"):
            await one.voices.DeleteVoice(tts_pb2.DeleteVoiceRequest(voice="Mine"))


async def test_every_operation_is_in_the_audit_log(tmp_path: Path, key_file: Path) -> None:
    async with rig(voices_dir=tmp_path / "voices", api_keys_file=key_file) as r:
        with structlog.testing.capture_logs() as lines:
            voice = (await create(r, key="a")).voice
            await r.voices.GetVoice(tts_pb2.GetVoiceRequest(voice="Mine"), metadata=credentials("a"))
            await r.voices.ListVoices(tts_pb2.ListVoicesRequest(), metadata=credentials("a"))
            await r.voices.DeleteVoice(tts_pb2.DeleteVoiceRequest(voice=voice.id), metadata=credentials("a"))
        acts = [line for line in lines if line["event"].startswith("voice")]
        assert [line["event"] for line in acts] == ["voice created", "voice read", "voices listed", "voice deleted"]
        assert {(line["key"], line["owner"]) for line in acts} == {("a", "a")}
        assert acts[0]["consent"] is True
        assert not any(KEYS["a"] in str(line) for line in lines)


async def test_bad_uploads_are_refused_without_harm_to_others(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], tuple[bytes, ...], str]] = [
        ({"consent": False}, (AUDIO,), "consent is missing"),
        ({"name": "../../etc"}, (AUDIO,), "1 to 64 letters"),
        ({"transcript": "x" * 2001}, (AUDIO,), "transcript has 2001"),
        ({}, (b"",), "recording is missing"),
        ({}, (b"BAD",), "not audio"),
        ({}, (b"x" * 200_000, b"x" * 200_000), "more than 300000 bytes"),
    ]
    async with rig(voices_dir=tmp_path, max_prompt_bytes=300_000) as r:
        for fields, parts, words in cases:
            with refused(Status.INVALID_ARGUMENT, words):
                await create(r, *parts, **fields)
        with refused(Status.INVALID_ARGUMENT, "first message must be the header"):
            await r.voices.CreateVoice(iter([tts_pb2.CreateVoiceRequest(audio=AUDIO)]))
        with refused(Status.INVALID_ARGUMENT, "only parts of the recording"):
            await r.voices.CreateVoice(iter([*requests(AUDIO), *requests()]))
        with refused(Status.INVALID_ARGUMENT, "comes with the model"):
            await r.voices.DeleteVoice(tts_pb2.DeleteVoiceRequest(voice="hugo"))
        assert len((await r.voices.ListVoices(tts_pb2.ListVoicesRequest())).voices) == 2
        await create(r)


async def test_a_client_that_drops_mid_upload_frees_its_place(tmp_path: Path) -> None:
    async with rig(voices_dir=tmp_path, max_uploads=1) as r:
        call = r.voices.CreateVoice()
        for request in requests(AUDIO):
            await call.write(request)
        library = r.gateway._context.registry
        await until(lambda: library._uploads.held == 1)
        with refused(Status.RESOURCE_EXHAUSTED, "voice uploads"):
            await create(r)
        call.cancel()
        await until(lambda: library._uploads.held == 0)
        await create(r)


async def test_a_refusal_during_the_upload_to_encode_keeps_its_status(tmp_path: Path) -> None:
    async with rig(voices_dir=tmp_path) as r:
        r.encode.refusal = Overloaded("64 recordings are being uploaded; try again shortly")
        for _ in range(20):
            with refused(Status.RESOURCE_EXHAUSTED, "are being uploaded"):
                await create(r, b"x" * 3_000_000)
        r.encode.refusal = None
        await create(r)


async def test_an_endless_upload_is_ended(tmp_path: Path) -> None:
    async with rig(voices_dir=tmp_path, upload_seconds=0.5) as r:
        call = r.voices.CreateVoice()
        for request in requests(b"x"):
            await call.write(request)
        with refused(Status.DEADLINE_EXCEEDED, "took longer than"):
            await call


async def test_the_voices_of_an_owner_are_limited(tmp_path: Path) -> None:
    async with rig(voices_dir=tmp_path, max_voices=1) as r:
        await create(r)
        with refused(Status.RESOURCE_EXHAUSTED, "delete one first"):
            await create(r, b"other audio", name="Second")
        assert (await create(r)).existed


async def test_a_stream_continues_while_its_voice_is_deleted(tmp_path: Path) -> None:
    async with rig(voices_dir=tmp_path) as r:
        await create(r)
        speaking = asyncio.create_task(say(r, "Mine"))
        await until(lambda: bool(r.llm.calls))
        await r.voices.DeleteVoice(tts_pb2.DeleteVoiceRequest(voice="Mine"))
        assert isinstance((await speaking)[-1], tts_pb2.Finished)


async def test_workers_evict_a_deleted_voice_and_again_when_its_last_stream_has_ended(tmp_path: Path) -> None:
    async with rig(voices_dir=tmp_path, llms=2) as r:
        await create(r)
        r.llms[0].scripts[0] = r.llms[1].scripts[0] = Script(hold={0: (gate := asyncio.Event())})
        speaking = asyncio.create_task(say(r, "Mine"))
        await until(lambda: any(llm.calls for llm in r.llms))
        await r.voices.DeleteVoice(tts_pb2.DeleteVoiceRequest(voice="Mine"))
        memories = [r.encode.evicted, *(llm.evicted for llm in r.llms)]
        assert memories == [["hash of hello"]] * 3
        gate.set()
        assert isinstance((await speaking)[-1], tts_pb2.Finished)
        await until(lambda: memories == [["hash of hello"] * 2] * 3)
        await create(r)
        await say(r, "Mine")
        assert [call.start.voice_hash for llm in r.llms for call in llm.calls] == ["hash of hello"] * 2


async def test_the_eviction_is_retried_until_the_worker_is_back(tmp_path: Path) -> None:
    async with rig(voices_dir=tmp_path, llms=2, model_poll_seconds=0.05) as r:
        await create(r)
        await r.llm_servers[1].close()
        before = REGISTRY.get_sample_value("lighttts_gateway_voices_not_forgotten_total") or 0.0
        await r.voices.DeleteVoice(tts_pb2.DeleteVoiceRequest(voice="Mine"))
        assert r.llms[0].evicted
        assert r.llms[1].evicted == []
        assert (REGISTRY.get_sample_value("lighttts_gateway_voices_not_forgotten_total") or 0.0) > before
        again = ServiceServer(r.llms[1], ServiceSettings(port=r.llm_servers[1].port))
        await again.start()
        await until(lambda: bool(r.llms[1].evicted))
        await again.close()


async def test_workers_evict_a_voice_whose_deletion_the_client_did_not_await(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted, delete = asyncio.Event(), DirectoryStore.delete

    async def slow(*arguments: Any) -> bool:
        await delete(*arguments)
        deleted.set()
        await asyncio.Event().wait()
        return True

    monkeypatch.setattr(DirectoryStore, "delete", slow)
    async with rig(voices_dir=tmp_path, model_poll_seconds=0.05) as r:
        await create(r)
        call = r.voices.DeleteVoice(tts_pb2.DeleteVoiceRequest(voice="Mine"))
        await deleted.wait()
        call.cancel()
        await until(lambda: "hash of hello" in r.encode.evicted and "hash of hello" in r.llm.evicted)


async def test_a_deletion_does_not_affect_another_owner_of_the_recording(tmp_path: Path, key_file: Path) -> None:
    async with rig(voices_dir=tmp_path / "voices", api_keys_file=key_file, result_cache="memory") as r:
        for key in KEYS:
            await create(r, key=key)
            await say(r, "Mine", key=key)
        await r.voices.DeleteVoice(tts_pb2.DeleteVoiceRequest(voice="Mine"), metadata=credentials("a"))
        assert isinstance((await say(r, "Mine", key="b"))[-1], tts_pb2.Finished)
        with refused(Status.NOT_FOUND, "no voice 'Mine'"):
            await say(r, "Mine", key="a")
