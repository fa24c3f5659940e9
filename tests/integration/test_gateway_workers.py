"""Several gateway processes behind the same ports, and connections that come anew without hurting what runs on them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import httpx
import psutil
import pytest

from cli.local.ports import free_ports
from cli.local.process import is_serving
from gateway.settings import GatewaySettings
from lighttts.v1 import tts_pb2, tts_pb2_grpc
from services.common.server import ServiceServer
from services.common.settings import ServiceSettings
from tests.support.fake_stages import Conversation, FakeEncode, FakeLlm, chunks, rig, until

LIMIT_SECONDS = 60


@asynccontextmanager
async def backends() -> AsyncIterator[tuple[str, ...]]:
    """Fake encode and llm workers; yields the gateway's flags that name them."""
    servers = [ServiceServer(service, ServiceSettings()) for service in (FakeEncode(), FakeLlm())]
    try:
        for server in servers:
            await server.start()
        encode, llm = (f"static:///{server.address}" for server in servers)
        yield "--encode-target", encode, "--llm-target", llm
    finally:
        for server in servers:
            await server.close()


@asynccontextmanager
async def gateway(*flags: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "--drain-notice-seconds", "0", "--cosyvoice-port", "off", *flags
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
        await process.wait()


async def speak(address: str) -> None:
    """One request over a connection of its own, again while it falls to a process that is still loading."""
    async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        call = tts_pb2_grpc.TextToSpeechStub(channel).Synthesize(tts_pb2.SynthesizeRequest(text="One."))
        try:
            assert sum([len(response.audio.pcm) async for response in call]) == 4 * 240 * 2
            return
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
    await asyncio.sleep(0.1)
    await speak(address)


def serving(pid: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(pid).children() if "resource_tracker" not in " ".join(child.cmdline())]


async def test_two_processes_share_the_ports_count_together_and_leave_together() -> None:
    ports = free_ports(0)
    address, http = f"127.0.0.1:{ports.gateway.grpc}", f"http://127.0.0.1:{ports.http}"
    own = ("--port", str(ports.gateway.grpc), "--http-port", str(ports.http), "--workers", "2")
    async with asyncio.timeout(LIMIT_SECONDS), backends() as flags, gateway(*flags, *own) as process:
        while not await is_serving(address):
            assert process.returncode is None
            await asyncio.sleep(0.1)
        first, second = serving(process.pid)
        async with httpx.AsyncClient(base_url=http, trust_env=False) as client:
            for _ in range(12):
                await speak(address)
            page = (await client.get("/metrics")).text
        counted = 'lighttts_rpc_finished_total{code="OK",method="/lighttts.v1.TextToSpeech/Synthesize"} 12.0'
        assert counted in page
        assert len(serving(process.pid)) == 2
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        assert not any(child.is_running() for child in (first, second))


async def test_a_port_in_use_is_named() -> None:
    async with rig() as r:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "--workers", "2", "--port", str(r.server.port), "--http-port", "0"),
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate()
        assert process.returncode == 1
        assert b"LIGHTTTS_PORT" in errors


async def test_a_connection_of_age_comes_anew_and_what_runs_on_it_goes_on() -> None:
    async with rig(max_connection_age_seconds=0.2) as r:
        client = await Conversation(r).begin()
        await client.next_of(tts_pb2.Started)
        process = psutil.Process(os.getpid())

        def connections() -> set[int]:
            return {
                connection.laddr.port
                for connection in process.net_connections("tcp")
                if connection.raddr and connection.raddr.port == r.server.port
            }

        (old,) = connections()

        async def another() -> bool:
            await r.voices.ListVoices(tts_pb2.ListVoicesRequest())
            return connections() > {old}

        while not await another():  # noqa: ASYNC110 - the client library tells nobody
            await asyncio.sleep(0.05)
        await client.text("One.")
        await client.end()
        assert sum(len(chunk.pcm) for chunk in chunks(await client.rest())) == 4 * 240 * 4
        await until(lambda: old not in connections())


@pytest.mark.parametrize("flag", ["--workers", "--max-connection-age-seconds"])
def test_nonsense_is_refused(flag: str) -> None:
    with pytest.raises(SystemExit):
        GatewaySettings.from_command_line([flag, "-1"])
