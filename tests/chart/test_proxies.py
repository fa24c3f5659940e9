"""Long streams through a real Envoy with the timeouts that the chart's routes ask for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest

from cli.local.ports import free_ports
from lighttts.v1 import audio_pb2, tts_pb2, tts_pb2_grpc
from tests.support.envoy import Route, proxying
from tests.support.fake_stages import Script, chunks, rig
from tests.support.helm import VERSIONS, helm

pytestmark = pytest.mark.system

TEXT = "One is long."
STREAM_SECONDS = 61.0
"""Length of the streams. Only the proxy's own clock can end them too early, so the test has to wait."""
ROUTES = (
    'gateway.httpRoute={"enabled":true,"parentRefs":[{"name":"web"}]}',
    'gateway.grpcRoute={"enabled":true,"parentRefs":[{"name":"web"}]}',
    "gateway.envoyGateway.enabled=true",
)


def timeouts() -> dict[str, str]:
    """Return the timeouts of the routes as Envoy Gateway passes them to Envoy: a policy's, or else the rule's own."""
    objects = {item["kind"]: item for item in helm(VERSIONS[-1]).render("values.yaml", *ROUTES)}
    policy = objects["BackendTrafficPolicy"]["spec"]
    covered = {target["kind"] for target in policy["targetRefs"]}
    return {
        kind: policy["timeout"]["http"]["requestTimeout"]
        if kind in covered
        else objects[kind]["spec"]["rules"][0]["timeouts"]["request"]
        for kind in ("HTTPRoute", "GRPCRoute")
    }


def test_an_http_route_ends_no_stream_even_without_a_policy() -> None:
    objects = {item["kind"]: item for item in helm(VERSIONS[-1]).render("values.yaml", *ROUTES[:2])}
    assert objects["HTTPRoute"]["spec"]["rules"][0]["timeouts"] == {"request": "0s", "backendRequest": "0s"}
    assert "timeouts" not in objects["GRPCRoute"]["spec"]["rules"][0], "the Gateway API does not know them"
    assert "BackendTrafficPolicy" not in objects


async def spoken(port: int) -> list[audio_pb2.AudioChunk]:
    """Speak over gRPC through a proxy."""
    config = tts_pb2.SynthesisConfig(seed=7, format=audio_pb2.SAMPLE_FORMAT_F32LE)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = tts_pb2_grpc.TextToSpeechStub(channel).Synthesize(tts_pb2.SynthesizeRequest(config=config, text=TEXT))
        return chunks([getattr(each, each.WhichOneof("event") or "") async for each in call])


async def downloaded(port: int) -> bytes:
    """Speak over HTTP through a proxy."""
    body = {"input": TEXT, "response_format": "pcm"}
    async with httpx.AsyncClient(trust_env=False, timeout=None) as client:  # noqa: S113 - the rig has its own limit
        answer = await client.post(f"http://127.0.0.1:{port}/v1/audio/speech", json=body)
        answer.raise_for_status()
        return answer.content


async def test_streams_of_a_minute_pass_although_envoy_ends_them_after_15_s_by_default(tmp_path: Path) -> None:
    asked = timeouts()
    began = asyncio.get_running_loop().time()
    async with rig(limit_seconds=240) as r:
        http, grpc_port = int(r.gateway.http_port), int(r.server.port)
        free = free_ports(1)
        routes = {
            "http": Route(free.http, http, http2=False, timeout=asked["HTTPRoute"]),
            "grpc": Route(free.gateway.grpc, grpc_port, http2=True, timeout=asked["GRPCRoute"]),
            "default": Route(free.gateway.metrics, grpc_port, http2=True, timeout=None),
        }
        middle, end = asyncio.Event(), asyncio.Event()
        r.llm.scripts = {number: Script(hold={1: middle, 2: end}) for number in range(3)}
        async with proxying(routes, tmp_path):
            speech = asyncio.create_task(spoken(routes["grpc"].port))
            download: asyncio.Task[Any] = asyncio.create_task(downloaded(routes["http"].port))
            with pytest.raises(grpc.aio.AioRpcError):  # Envoy's own time has passed
                await spoken(routes["default"].port)
            middle.set()
            await asyncio.sleep(began + STREAM_SECONDS - asyncio.get_running_loop().time())
            assert not speech.done()
            assert not download.done()
            end.set()
            assert sum(len(chunk.pcm) for chunk in await speech) > 0
            assert (await speech)[-1].last
            assert len(await download) > 0
