"""A real worker process whose backend breaks ends with exit code 1, so that its supervisor restarts it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import httpx

from cli.local.ports import HOST, free_ports
from lighttts.v1 import decode_pb2, decode_pb2_grpc
from services.common.workers.call_end import CallEnd
from tests.support.llm import TINY, VOICE

LIMIT_SECONDS = 400
BROKEN = """
import sys
from pathlib import Path
from services.common.server import run
from services.decode.engine.backends import SimulatedBackend
from services.decode.server import DecodeService
from services.decode.settings import DecodeSettings

sound, broken = SimulatedBackend.run, Path(sys.argv.pop(1))

def fail(self, hops, beat):
    if broken.exists():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    return sound(self, hops, beat)

SimulatedBackend.run = fail
settings = DecodeSettings.from_command_line()
sys.exit(run(lambda: DecodeService(settings), settings, DecodeService.name))
"""


async def test_a_process_whose_canary_fails_exits_with_an_error(tmp_path: Path) -> None:
    costs, broken, ports = tmp_path / "costs.json", tmp_path / "broken", free_ports(1).decode[0]
    costs.write_text(json.dumps({"batch_s": 0.0, "stream_s": 0.0, "frame_s": 0.0}), encoding="utf-8")
    flags = [
        str(broken),
        "--port",
        str(ports.grpc),
        "--metrics-port",
        str(ports.metrics),
        "--model-dir",
        str(TINY),
        "--drain-notice-seconds",
        "0",
    ]
    flags += ["--decode-backend", "simulated", "--decode-cost-file", str(costs)]
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", BROKEN, *flags)
    try:
        async with asyncio.timeout(LIMIT_SECONDS), grpc.aio.insecure_channel(f"{HOST}:{ports.grpc}") as channel:
            await channel.channel_ready()
            await _scrape(ports.metrics)  # the process waits for its last scrape only if it had one
            broken.touch()  # after the hops that a worker measures before it is ready
            call = decode_pb2_grpc.DecodeStub(channel).Decode(_utterance(), wait_for_ready=True)
            end = CallEnd(call)
            try:
                async for _ in call:
                    pass
            except grpc.aio.AioRpcError as error:
                refusal = await end.error(error)
            assert refusal.code() is grpc.StatusCode.UNAVAILABLE, "the utterance can move"
            assert "lighttts_decode_canary_failures_total 1.0" in await _scrape(ports.metrics)
            assert await process.wait() == 1
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _scrape(port: int) -> str:
    async with httpx.AsyncClient(trust_env=False, timeout=LIMIT_SECONDS) as http:
        return (await http.get(f"http://{HOST}:{port}/metrics")).text


async def _utterance() -> AsyncIterator[decode_pb2.DecodeRequest]:
    yield decode_pb2.DecodeRequest(start=decode_pb2.DecodeStart(voice_hash=VOICE.voice_hash))
    yield decode_pb2.DecodeRequest(voice=VOICE)
    yield decode_pb2.DecodeRequest(tokens=decode_pb2.SpeechTokens(ids=range(20), last=True))
