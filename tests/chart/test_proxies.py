"""Long streams through a real Envoy with the timeouts that the chart's routes ask for."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest

from lighttts.v1 import audio_pb2, tts_pb2, tts_pb2_grpc
from tests.support.envoy import Route, proxying
from tests.support.fake_stages import Script, chunks, rig
from tests.support.helm import VERSIONS, helm

pytestmark = pytest.mark.system

TEXT = "One is long."
ROUTES = (
    'gateway.httpRoute={"enabled":true,"parentRefs":[{"name":"web"}]}',
    'gateway.grpcRoute={"enabled":true,"parentRefs":[{"name":"web"}]}',
    "gateway.envoyGateway.enabled=true",
)


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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


async def test_streams_outlive_the_time_after_which_envoy_ends_them_by_default(tmp_path: Path) -> None:
    asked = timeouts()
    async with rig(limit_seconds=120) as r:
        http, grpc_port = int(r.gateway.http_port), int(r.server.port)
        routes = {
            "http": Route(free_port(), http, http2=False, timeout=asked["HTTPRoute"]),
            "grpc": Route(free_port(), grpc_port, http2=True, timeout=asked["GRPCRoute"]),
            "default": Route(free_port(), grpc_port, http2=True, timeout=None),
        }
        release = asyncio.Event()
        r.llm.scripts = {number: Script(hold={1: release}) for number in range(3)}
        async with proxying(routes, tmp_path):
            speech = asyncio.create_task(spoken(routes["grpc"].port))
            download: asyncio.Task[Any] = asyncio.create_task(downloaded(routes["http"].port))
            with pytest.raises(grpc.aio.AioRpcError):  # Envoy's own time has passed
                await spoken(routes["default"].port)
            assert not speech.done()
            assert not download.done()
            release.set()
            assert sum(len(chunk.pcm) for chunk in await speech) > 0
            assert (await speech)[-1].last
            assert len(await download) > 0
