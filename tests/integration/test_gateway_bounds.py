"""What a client costs before it has a session: metric series, bytes, connections, time."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import json
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from gateway.api.common import json_body
from gateway.auth.keys import key_hash
from lighttts.v1 import tts_pb2
from services.common.workers.call_end import CallEnd
from tests.support.fake_stages import Conversation, Rig, Script, rig, until

RESOURCE_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
KEY = "ltts_a-key"
HEADERS = {"x-api-key": KEY}
AUDIO = base64.b64encode(b"RIFF" + bytes(200_000)).decode()
SPEECH = {"input": "Hi.", "response_format": "pcm", "ref_audio": AUDIO, "ref_text": "hello"}


def keys(folder: Path, limits: str = "") -> Path:
    path = folder / "keys.yaml"
    path.write_text(f"keys: [{{name: app, sha256: {key_hash(KEY)}{limits}}}]")
    return path


def call(r: Rig, method: str) -> grpc.aio.StreamStreamCall[bytes, bytes]:
    make: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = r.channel.stream_stream(
        f"/lighttts.v1.TextToSpeech/{method}", None, None
    )
    return make()


async def test_invented_methods_make_no_series(tmp_path: Path) -> None:
    async with rig(api_keys_file=keys(tmp_path)) as r:
        for number in range(20):
            with pytest.raises(grpc.aio.AioRpcError):
                await call(r, f"Invented{number}").read()
        text = (await r.http.get("/metrics")).text
        assert "Invented" not in text
        assert 'lighttts_rpc_finished_total{code="UNAUTHENTICATED",method="unregistered"}' in text


async def test_metrics_are_written_outside_the_event_loop() -> None:
    class Collector:
        def __init__(self) -> None:
            self.threads = set[int]()

        def collect(self) -> Iterable[GaugeMetricFamily]:
            self.threads.add(threading.get_ident())
            return ()

    collector = Collector()
    REGISTRY.register(collector)
    try:
        async with rig() as r:
            collector.threads.clear()
            await r.http.get("/metrics")
    finally:
        REGISTRY.unregister(collector)
    assert collector.threads
    assert threading.get_ident() not in collector.threads


async def test_bodies_of_all_requests_fit_into_the_budget() -> None:
    async with rig(body_budget_bytes=2**20) as r:
        r.llm.scripts = {number: Script(hold={0: asyncio.Event()}) for number in range(8)}
        calls = [asyncio.create_task(r.http.post("/v1/audio/speech", json=SPEECH)) for _ in range(8)]
        await until(lambda: sum(post.done() for post in calls) == 5)
        assert {post.result().status_code for post in calls if post.done()} == {429}
        assert r.gateway._bodies.held <= 2**20
        for script in r.llm.scripts.values():
            script.hold[0].set()
        await asyncio.wait(calls)
        assert [post.result().status_code for post in calls].count(200) == 3
        assert r.gateway._bodies.held == 0


async def test_grpc_messages_fit_into_the_same_budget() -> None:
    prompt = tts_pb2.Prompt(audio=b"RIFF" + bytes(300_000), transcript="hello")
    config = tts_pb2.SynthesisConfig(prompt=prompt, seed=1)

    async def synthesize(r: Rig) -> list[Any]:
        return [one async for one in r.tts.Synthesize(tts_pb2.SynthesizeRequest(config=config, text="Hi."))]

    async with rig(body_budget_bytes=2**20) as r:
        r.llm.scripts = {number: Script(hold={0: asyncio.Event()}) for number in range(8)}
        calls = [asyncio.create_task(synthesize(r)) for _ in range(5)]
        await until(lambda: sum(call.done() for call in calls) == 2)
        refused = [call.exception() for call in calls if call.done()]
        assert r.gateway._bodies.held <= 2**20
        for error in refused:
            assert isinstance(error, grpc.aio.AioRpcError)
            assert (error.code(), "bytes of requests" in (error.details() or "")) == (RESOURCE_EXHAUSTED, True)
        for script in r.llm.scripts.values():
            script.hold[0].set()
        await asyncio.wait(calls)
        await until(lambda: r.gateway._bodies.held == 0)


async def test_the_parts_of_a_recording_over_grpc_count_until_its_call_has_ended() -> None:
    async def parts() -> Any:
        yield tts_pb2.CreateVoiceRequest(
            header=tts_pb2.CreateVoiceHeader(name="mine", transcript="hello", consent=True)
        )
        for _ in range(4):
            yield tts_pb2.CreateVoiceRequest(audio=bytes(300_000))

    async def texts() -> Any:
        yield tts_pb2.StreamingSynthesizeRequest(config=tts_pb2.SynthesisConfig())
        for _ in range(12):
            yield tts_pb2.StreamingSynthesizeRequest(text=" " * 100_000)

    async with rig(body_budget_bytes=2**20, max_text_chars=2**21) as r:
        upload = r.voices.CreateVoice(parts())
        end = CallEnd(upload)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await upload
        refusal = await end.error(raised.value)
        assert (refusal.code(), "bytes of requests" in (refusal.details() or "")) == (RESOURCE_EXHAUSTED, True)
        # The text of a long stream is not kept, so it does not add up.
        assert [one async for one in r.tts.StreamingSynthesize(texts())][-1].HasField("finished")
        await until(lambda: r.gateway._bodies.held == 0)


async def test_the_bytes_of_a_refused_stream_are_free_when_its_call_has_ended() -> None:
    make = tts_pb2.StreamingSynthesizeRequest
    recording = tts_pb2.Prompt(audio=b"RIFF" + bytes(300_000), transcript="hello")
    refused = [
        make(text="x" * 300),
        make(configure=tts_pb2.Configure(config=tts_pb2.SynthesisConfig(prompt=recording, speed=9))),
    ]
    gc.disable()  # a collection would free the bytes of a stream that nothing has closed
    try:
        async with rig(max_text_chars=200) as r:
            for message in refused:
                client = await Conversation(r).begin()
                await client.call.write(message)
                with pytest.raises(grpc.aio.AioRpcError) as refusal:
                    await client.rest()
                assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT
                await until(lambda: r.gateway._bodies.held == 0)
    finally:
        gc.enable()


async def test_the_quota_is_checked_before_the_body_is_read(tmp_path: Path) -> None:
    async with rig(api_keys_file=keys(tmp_path, ", requests_per_minute: 0.001, burst: 1")) as r:
        assert (await r.http.post("/v1/audio/speech", json=SPEECH, headers=HEADERS)).status_code == 200
        answer, sent = await begin_body(r, "/v1/audio/speech", 100_000, b"")
        assert (answer, sent) == (b"HTTP/1.1 429", 0)


async def begin_body(r: Rig, path: str, length: int, part: bytes) -> tuple[bytes, int]:
    """Send the head of a request and a part of its body; return the answer's status, and the bytes sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", r.gateway.http_port)
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\nx-api-key: {KEY}\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {length}\r\n\r\n".encode() + part)
    answer = await reader.read(12)
    writer.close()
    return answer, len(part)


@pytest.mark.parametrize(
    ("settings", "part"),
    [({"first_message_seconds": 0.05}, b""), ({"body_seconds": 0.05, "first_message_seconds": 30}, b"{")],
)
async def test_a_body_that_does_not_arrive_is_refused(settings: dict[str, Any], part: bytes) -> None:
    async with rig(**settings) as r:
        assert (await begin_body(r, "/v1/audio/speech", 1000, part))[0] == b"HTTP/1.1 408"


@pytest.mark.parametrize(
    ("path", "length"), [("/v1/audio/speech", 2_000_000), ("/inference_sft", 1_100_000), ("/query_tts_model", 70_000)]
)
async def test_a_declared_length_above_the_limit_of_the_route_is_refused_unread(path: str, length: int) -> None:
    async with rig(max_prompt_bytes=100_000) as r:
        assert (await begin_body(r, path, length, b""))[0] == b"HTTP/1.1 413"


@pytest.mark.parametrize("escape", ["/", "\\/", "\\u002f", "\\n/"])
def test_a_long_string_is_read_as_json_loads_reads_it(escape: str) -> None:
    body = b'{"a": [1, "x\\""], "audio": "' + f"ABC{escape}DEFGHIJK".encode() * 100_000 + b'", "b": {"c": null}}'
    assert json_body.parse(body) == json.loads(body)


@pytest.mark.parametrize("body", [b"[%s]" % b"[]," * 400_000, b'{"a": ["%s"]}' % (b"x" * 100_000)])
def test_a_body_whose_structure_is_large_is_not_parsed(body: bytes) -> None:
    with pytest.raises(json_body.StructureTooLarge):
        json_body.parse(body)


async def test_json_bodies_are_parsed_outside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    parse = json_body.parse

    def noted(body: bytes | bytearray) -> Any:
        threads.append(threading.get_ident())
        return parse(body)

    monkeypatch.setattr(json_body, "parse", noted)
    async with rig() as r:
        assert (await r.http.post("/v1/audio/speech", json=SPEECH)).status_code == 200
    assert threads
    assert threading.get_ident() not in threads


def socket(r: Rig) -> connect:
    url = f"ws://127.0.0.1:{r.gateway.http_port}/inference_zero_shot_bistream"
    return connect(url, additional_headers=HEADERS, proxy=None)


async def test_a_silent_socket_counts_as_a_stream_and_is_closed(tmp_path: Path) -> None:
    path = keys(tmp_path, ", max_streams: 1")
    async with rig(api_keys_file=path) as r, socket(r), socket(r) as second:
        assert "1 streams at once" in str(await second.recv())
    async with rig(api_keys_file=path, first_message_seconds=0.05) as r, socket(r) as silent:
        assert "first frame did not arrive" in str(await silent.recv())
        with pytest.raises(ConnectionClosed):
            await silent.recv()


@pytest.mark.parametrize("method", ["Synthesize", "StreamingSynthesize"])
async def test_a_call_without_a_first_message_is_ended(method: str) -> None:
    async with rig(first_message_seconds=0.05) as r:
        assert await call(r, method).code() == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_idle_connections_give_way_to_new_ones() -> None:
    async with rig(max_connections=8) as r:
        idle = [await asyncio.open_connection("127.0.0.1", r.gateway.http_port) for _ in range(40)]
        assert (await r.http.get("/liveness")).status_code == 200
        assert len(r.gateway._http._connections) <= 8
        for _, writer in idle:
            writer.close()


async def test_headers_that_do_not_arrive_end_the_connection() -> None:
    async with rig(header_seconds=0.05) as r:
        reader, writer = await asyncio.open_connection("127.0.0.1", r.gateway.http_port)
        writer.write(b"GET / HTTP/1.1\r\nhost:")
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
