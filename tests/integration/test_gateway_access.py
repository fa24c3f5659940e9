"""API keys, quotas and idle streams, over gRPC and HTTP."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import structlog
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from prometheus_client import REGISTRY
from websockets.asyncio.client import connect

from gateway.auth.keys import key_hash
from gateway.server import GatewayService
from gateway.settings import GatewaySettings
from lighttts.v1 import audio_pb2, tts_pb2
from services.common.start_error import StartError
from tests.support.fake_stages import Conversation, Rig, Script, rig, until
from tests.support.redis_server import redis_server
from tests.support.second_gateway import second_gateway

Status = grpc.StatusCode
KEY = "ltts_a-test-key"
FORM = {"tts_text": "Hi.", "prompt_text": "hello"}


def keys(folder: Path, **fields: Any) -> Path:
    path = folder / "keys.yaml"
    more = "".join(f", {name}: {value}" for name, value in fields.items())
    path.write_text(f"keys: [{{name: app, sha256: {key_hash(KEY)}{more}}}]")
    return path


async def say(r: Rig, *metadata: tuple[str, str | bytes], text: str = "Hi.", **config: Any) -> list[Any]:
    request = tts_pb2.SynthesizeRequest(config=tts_pb2.SynthesisConfig(seed=1, **config), text=text)
    call = r.tts.Synthesize(request, metadata=metadata or (("x-api-key", KEY),))
    return [getattr(response, response.WhichOneof("event") or "") async for response in call]


async def post(r: Rig, **options: Any) -> Any:
    return await r.http.post("/inference_zero_shot", data=FORM, files={"prompt_wav": ("a", b"RIFF")}, **options)


def retry_seconds(error: grpc.aio.AioRpcError) -> float | None:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    for detail in status.details if status else ():
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            return float(retry.retry_delay.ToNanoseconds() / 1e9)
    return None


@pytest.mark.parametrize(
    "metadata",
    [
        (("x-nothing", "1"),),
        (("x-api-key", "wrong"),),
        (("authorization", KEY),),
        (("authorization", "Basic " + KEY),),
        (("x-api-key-bin", KEY.encode()),),
        (("x-api-key", KEY), ("authorization", "Bearer other")),
    ],
)
async def test_grpc_calls_without_a_valid_key_are_unauthenticated(tmp_path: Path, metadata: Any) -> None:
    async with rig(api_keys_file=keys(tmp_path)) as r:
        calls = (
            r.tts.Synthesize(tts_pb2.SynthesizeRequest(text="Hi."), metadata=metadata).read(),
            r.tts.StreamingSynthesize(metadata=metadata).read(),
            r.voices.ListVoices(tts_pb2.ListVoicesRequest(), metadata=metadata),
            r.voices.CreateVoice(iter(()), metadata=metadata),
        )
        for call in calls:
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await call
            assert refusal.value.code() == Status.UNAUTHENTICATED
        assert r.encode.uploads == []
        assert r.llm.calls == []
        await say(r, ("authorization", f"Bearer {KEY}"))


async def test_health_needs_no_key(tmp_path: Path) -> None:
    async with rig(api_keys_file=keys(tmp_path)) as r:
        stub: Any = health_pb2_grpc.HealthStub(r.channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        for path in ("/health", "/healthz", "/liveness", "/readiness", "/metrics"):
            assert (await r.http.get(path)).status_code == 200


async def test_http_requests_without_a_valid_key_are_401_before_their_body_is_read(tmp_path: Path) -> None:
    async with rig(api_keys_file=keys(tmp_path)) as r:
        for options, words in [
            ({}, "is needed"),
            ({"headers": {"x-api-key": "wrong"}}, "unknown API key"),
            ({"headers": {"authorization": f"Token {KEY}"}}, "Bearer"),
            ({"params": {"api_key": KEY}}, "ends up in logs"),
        ]:
            response = await post(r, **options)
            assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
            assert words in response.json()["message"]
            assert KEY not in response.text
        assert (await r.http.get("/query_tts_model")).status_code == 401
        for headers in ({"x-api-key": KEY}, {"authorization": f"Bearer {KEY}"}):
            assert (await post(r, headers=headers)).status_code == 200


async def test_an_expired_key_is_refused_with_its_date(tmp_path: Path) -> None:
    async with rig(api_keys_file=keys(tmp_path, expires="2020-01-01T00:00:00Z")) as r:
        with pytest.raises(grpc.aio.AioRpcError, match="expired on 2020-01-01") as refusal:
            await say(r)
        assert refusal.value.code() == Status.UNAUTHENTICATED
        assert "expired" in (await post(r, headers={"x-api-key": KEY})).json()["message"]


@pytest.mark.parametrize("shared", [False, pytest.param(True, marks=pytest.mark.system)])
async def test_streams_at_once_are_limited_per_key(tmp_path: Path, shared: bool) -> None:
    async with redis_server() if shared else no_server() as url:
        settings: dict[str, Any] = {"redis_url": url} if url else {}
        async with rig(api_keys_file=keys(tmp_path, max_streams=1), **settings) as r:
            r.llm.scripts[0] = Script(hold={0: asyncio.Event()})
            first = asyncio.create_task(say(r))
            await until(lambda: bool(r.llm.calls))
            with pytest.raises(grpc.aio.AioRpcError, match="1 streams at once") as refusal:
                await say(r)
            assert refusal.value.code() == Status.RESOURCE_EXHAUSTED
            assert retry_seconds(refusal.value) == 1
            response = await post(r, headers={"x-api-key": KEY})
            assert (response.status_code, response.headers["retry-after"]) == (429, "1")
            r.llm.scripts[0].hold[0].set()
            await first
            await say(r)


@pytest.mark.parametrize("shared", [False, pytest.param(True, marks=pytest.mark.system)])
async def test_requests_per_minute_are_limited_per_key(tmp_path: Path, shared: bool) -> None:
    async with redis_server() if shared else no_server() as url:
        settings: dict[str, Any] = {"redis_url": url} if url else {}
        async with rig(api_keys_file=keys(tmp_path, requests_per_minute=1, burst=2), **settings) as r:
            await say(r)
            await say(r)
            with pytest.raises(grpc.aio.AioRpcError, match="1 requests per minute") as refusal:
                await say(r)
            assert 0 < (retry_seconds(refusal.value) or 0) <= 60


@pytest.mark.system
async def test_gateways_share_quotas_and_count_alone_without_redis(tmp_path: Path) -> None:
    key_file = keys(tmp_path, requests_per_minute=0.001, burst=2)
    async with redis_server() as url:
        settings: dict[str, Any] = {"api_keys_file": key_file, "redis_url": url}
        async with rig(**settings) as one, second_gateway(one, **settings) as other:
            await say(one)
            await say(other)
            for r in (one, other):
                with pytest.raises(grpc.aio.AioRpcError, match="per minute"):
                    await say(r)
    async with rig(**settings) as one:
        await say(one)


@pytest.mark.system
async def test_a_complete_answer_does_not_count_as_a_cancellation(tmp_path: Path) -> None:
    def cancellations() -> float:
        return REGISTRY.get_sample_value("lighttts_gateway_cancellations_total", {"by": "client"}) or 0.0

    async with redis_server() as url, rig(api_keys_file=keys(tmp_path, max_streams=1), redis_url=url) as r:
        before = cancellations()
        for _ in range(4):  # each frees its stream, which takes a call of Redis after the last event
            answer = await r.http.post("/v1/audio/speech", json={"input": "Hi."}, headers={"x-api-key": KEY})
            assert answer.status_code == 200
        assert cancellations() == before


async def test_requests_of_an_offline_key_have_offline_priority(tmp_path: Path) -> None:
    async with rig(api_keys_file=keys(tmp_path, priority="offline")) as r:
        await say(r, priority=audio_pb2.Urgency.PRIORITY_INTERACTIVE)
        priority = r.llm.calls[0].start.urgency.priority
        assert priority == audio_pb2.Urgency.PRIORITY_OFFLINE


async def test_an_idle_stream_is_closed_and_frees_its_place() -> None:
    async with rig(idle_seconds=0.5, max_sessions=1) as r:
        client = await Conversation(r).begin()
        with pytest.raises(grpc.aio.AioRpcError, match="no input and no reads") as refusal:
            await client.rest()
        assert refusal.value.code() == Status.DEADLINE_EXCEEDED
        await say(r, ("x", "y"))


async def test_a_client_that_never_reads_frees_its_place() -> None:
    async with rig(idle_seconds=0.5, max_sessions=1) as r:
        r.llm.HOP_IDS = 1000  # large messages, which fill the connection's buffers after a few sentences
        client = await Conversation(r).begin()
        await client.text("A text that is long enough to fill the queue of a reader. " * 300)
        await until(lambda: bool(r.llm.calls))
        await until(lambda: not r.gateway._context.admission._sessions)
        await say(r, ("x", "y"))
        client.call.cancel()


RECORDING = b"RIFF" + bytes(300_000)
LONG_TEXT = "A text that is long enough to fill. " * 110


async def test_an_http_client_that_never_reads_frees_the_bytes_of_its_request() -> None:
    async with rig(idle_seconds=0.5) as r:
        r.llm.HOP_IDS = 1000
        recording = base64.b64encode(RECORDING).decode()
        fields = {"input": LONG_TEXT, "response_format": "pcm", "ref_audio": recording, "ref_text": "hello"}
        body = json.dumps(fields | {"sample_rate": 48000}).encode()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", r.gateway.http_port))
            client.setblocking(False)
            head = b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            head += b"Content-Length: %d\r\n\r\n" % len(body)
            await asyncio.get_running_loop().sock_sendall(client, head + body)
            await until(lambda: bool(r.llm.calls))
            assert r.gateway._bodies.held >= len(body)
            await until(lambda: r.gateway._bodies.held == 0)


async def test_a_client_of_a_socket_that_never_reads_is_disconnected() -> None:
    async with rig(idle_seconds=0.5) as r:
        r.llm.HOP_IDS = 1000
        url = f"ws://127.0.0.1:{r.gateway.http_port}/v1/conversation"
        async with connect(url, proxy=None, ping_interval=None) as client:
            audio = {"encoding": "AUDIO_ENCODING_PCM_F32LE", "sample_rate": 48000}  # more than the connection's buffers
            await client.send(json.dumps({"synthesize": {"text": LONG_TEXT * 4, "config": {"audio": audio}}}))
            await client.recv()
            client.transport.pause_reading()
            await until(lambda: bool(r.llm.calls))
            await until(lambda: not r.gateway._http._connections)
            client.transport.abort()


async def test_a_grpc_client_that_never_reads_frees_the_bytes_of_its_request() -> None:
    async with rig(idle_seconds=0.5) as r:
        r.llm.HOP_IDS = 1000
        config = tts_pb2.SynthesisConfig(seed=1, prompt=tts_pb2.Prompt(audio=RECORDING, transcript="hello"))
        call = r.tts.Synthesize(tts_pb2.SynthesizeRequest(config=config, text=LONG_TEXT * 4))
        await until(lambda: bool(r.llm.calls))
        assert r.gateway._bodies.held > len(RECORDING)
        await until(lambda: r.gateway._bodies.held == 0)
        call.cancel()


@pytest.mark.parametrize(
    ("guarded", "text"), [(False, "anyone who can reach this gateway can use it"), (True, "API keys are required")]
)
async def test_the_start_logs_whether_keys_are_required(tmp_path: Path, guarded: bool, text: str) -> None:
    settings: dict[str, Any] = {"api_keys_file": keys(tmp_path)} if guarded else {}
    with structlog.testing.capture_logs() as lines:
        async with rig(**settings):
            pass
    assert sum(text in line["event"] for line in lines) == 1


def test_a_bad_key_file_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"LIGHTTTS_API_KEYS_FILE: .* cannot be read"):
        GatewayService(GatewaySettings(api_keys_file=tmp_path / "none.yaml"))


@contextlib.asynccontextmanager
async def no_server() -> AsyncIterator[str]:
    """Stands for `redis_server` in tests without Redis."""
    yield ""
