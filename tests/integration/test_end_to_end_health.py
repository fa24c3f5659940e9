"""End-to-end health: what the llm service and the gateway report about the services behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.end_to_end import GATEWAY_END_TO_END, LLM_END_TO_END
from services.common.errors import Unavailable
from services.common.server import READINESS
from tests.support.clock import ManualClock
from tests.support.decode_worker import StartWorker
from tests.support.fake_stages import Rig, Script, rig, until
from tests.support.llm import llm_service, metric

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
NO_DECODE = "no decode worker is serving"


async def status(channel: grpc.aio.Channel, service: str) -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)  # its type stubs omit the methods
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    return int(answer.status)


async def becomes(channel: grpc.aio.Channel, service: str, wanted: int) -> None:
    """Wait until the health service reports `wanted`."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    async for answer in stub.Watch(health_pb2.HealthCheckRequest(service=service)):
        if answer.status == wanted:
            return


async def test_an_llm_worker_reports_whether_its_decode_workers_serve(tmp_path: Path, worker: StartWorker) -> None:
    decode = await worker()
    async with llm_service(tmp_path, decode.address) as llm, grpc.aio.insecure_channel(llm.server.address) as channel:
        await becomes(channel, LLM_END_TO_END, SERVING)
        assert metric("lighttts_end_to_end", service="llm") == 1
        await decode.stop()
        await becomes(channel, LLM_END_TO_END, NOT_SERVING)
        assert metric("lighttts_end_to_end", service="llm") == 0
        assert await status(channel, READINESS) == SERVING


async def test_an_llm_worker_without_decode_workers_is_ready_by_itself(tmp_path: Path, worker: StartWorker) -> None:
    decode = await worker()
    await decode.stop()
    async with llm_service(tmp_path, decode.address) as llm, grpc.aio.insecure_channel(llm.server.address) as channel:
        assert await status(channel, READINESS) == SERVING
        assert await status(channel, LLM_END_TO_END) == NOT_SERVING


async def health(r: Rig, path: str = "/health") -> tuple[int, dict[str, str]]:
    answer: httpx.Response = await r.http.get(path)
    assert (answer.headers.get("retry-after") == "1") == (answer.status_code == 503)
    return answer.status_code, answer.json()


def llm_serves_end_to_end(r: Rig) -> bool:
    return r.gateway.health.missing() == ""


async def test_health_is_end_to_end_and_readiness_is_the_gateways_own() -> None:
    clock = ManualClock()
    async with rig(clock=clock, health_grace_seconds=10) as r:
        await until(lambda: llm_serves_end_to_end(r))
        await becomes(r.channel, GATEWAY_END_TO_END, SERVING)
        for path in ("/health", "/healthz"):
            assert await health(r, path) == (200, {"message": "Ok"})

        r.llm.behind = NO_DECODE
        await until(lambda: not llm_serves_end_to_end(r))
        assert await health(r) == (200, {"message": "Ok"})  # such as a rolling restart
        clock.now += 9
        assert await health(r) == (200, {"message": "Ok"})
        clock.now += 1
        for path in ("/health", "/healthz"):
            assert await health(r, path) == (503, {"message": "Error", "reason": NO_DECODE})
        await becomes(r.channel, GATEWAY_END_TO_END, NOT_SERVING)
        assert metric("lighttts_end_to_end", service="gateway") == 0
        for path in ("/liveness", "/readiness"):
            assert (await r.http.get(path)).json() == {"status": "ok"}
        assert await status(r.channel, READINESS) == SERVING

        r.llm.behind = ""
        await until(lambda: llm_serves_end_to_end(r))
        assert await health(r) == (200, {"message": "Ok"})
        await becomes(r.channel, GATEWAY_END_TO_END, SERVING)


async def test_an_outage_that_ends_within_the_grace_leaves_no_trace() -> None:
    clock = ManualClock()
    async with rig(clock=clock, health_grace_seconds=10) as r:
        for _ in range(3):
            await until(lambda: llm_serves_end_to_end(r))
            assert (await health(r))[0] == 200
            r.llm.behind = NO_DECODE
            await until(lambda: not llm_serves_end_to_end(r))
            assert (await health(r))[0] == 200
            clock.now += 6
            assert (await health(r))[0] == 200
            r.llm.behind = ""


async def test_a_lost_llm_worker_does_not_make_the_gateway_unready() -> None:
    async with rig(health_grace_seconds=0) as r:
        await r.llm_servers[0].close()
        await becomes(r.channel, GATEWAY_END_TO_END, NOT_SERVING)
        assert await health(r) == (503, {"message": "Error", "reason": "no llm worker is serving"})
        assert (await r.http.get("/readiness")).status_code == 200
        assert (await r.http.get("/liveness")).status_code == 200


async def test_a_gateway_that_never_was_able_reports_it_without_grace() -> None:
    async with rig(health_grace_seconds=3600, behind=NO_DECODE) as r:
        assert await health(r) == (503, {"message": "Error", "reason": NO_DECODE})
        assert await status(r.channel, GATEWAY_END_TO_END) == NOT_SERVING
        assert await status(r.channel, READINESS) == SERVING


@pytest.mark.parametrize("path", ["/inference_zero_shot", "/v1/audio/speech"])
async def test_speech_without_decode_workers_is_503_with_a_hint(path: str) -> None:
    async with rig() as r:
        refusal = Unavailable("no decode worker can take this now (none is known)", retry_after=1.0)
        r.llm.scripts = {call: Script(refusal=refusal) for call in range(4)}
        if path == "/v1/audio/speech":
            answer = await r.http.post(path, json={"input": "Hello.", "voice": "anna", "model": "tts-1"})
        else:
            files = {"prompt_wav": ("prompt.wav", b"RIFF", "audio/wav")}
            answer = await r.http.post(path, data={"tts_text": "Hello.", "prompt_text": "hello"}, files=files)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "no decode worker" in answer.text
