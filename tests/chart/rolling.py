"""`make upgrade-test`: an upgrade that replaces every pod, and the drain of a node, under calls without pause.

Two pods of each service run as processes with the command lines, probes and preStop of the rendered chart; the engines
of llm and decode are simulated, so that an upgrade of everything at once fits on a small machine. The client
is the load of `make cluster-test`: one long stream and many short calls on one channel, through a stand-in for the
Service, which chooses a Ready pod per connection as kube-proxy does.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.load import LIMIT_SECONDS
from tests.support.cluster import Cluster
from tests.support.helm import ROOT, VERSIONS, helm

pytestmark = pytest.mark.system

SERVICES = ("encode", "llm", "decode", "gateway")
TWO_OF_EACH = tuple(f"{service}.replicaCount=2" for service in SERVICES)
LLM = {"llm_backend": "simulated", "llm_cost_file": "services/llm/costs/guided-cpu.json"}
DECODE = {
    "decode_backend": "simulated",
    "decode_cost_file": "services/decode/costs/guided-cpu.json",
    "decode_admission": "off",
}
"""Engines that sleep for what speech costs, so that ten of them fit on a small machine."""
CALLS_BETWEEN = 4
"""Calls that must end before the next step."""


@asynccontextmanager
async def service_address(cluster: Cluster, service: str, port: str) -> AsyncIterator[str]:
    """Yield an address that leads to another Ready pod for each connection."""
    tasks: set[asyncio.Task[Any]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, number = cluster.reach(service, port).rpartition(":")
        try:
            far_reader, far_writer = await asyncio.open_connection(host, int(number))
        except OSError:
            writer.close()
            return
        both = (copy(reader, far_writer), copy(far_reader, writer))
        tasks.update(asyncio.create_task(direction) for direction in both)

    async with await asyncio.start_server(connect, "127.0.0.1", 0) as server:
        host, number = server.sockets[0].getsockname()
        yield f"{host}:{number}"
        for task in tasks:
            task.cancel()


@dataclass
class Load:
    """The calls of `tests/cluster/load.py` in a process."""

    process: asyncio.subprocess.Process
    calls: list[dict[str, Any]]

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            if line.startswith(b"{"):
                self.calls.append(json.loads(line))

    async def more(self, calls: int = CALLS_BETWEEN) -> None:
        """Wait until `calls` further calls have ended."""
        wanted = len(self.calls) + calls
        async with asyncio.timeout(calls * LIMIT_SECONDS):
            while len(self.calls) < wanted:  # noqa: ASYNC110 - another process makes them
                await asyncio.sleep(0.1)

    def report(self, step: str) -> None:
        """Print the calls so far; fail if one of them has."""
        failed = [call for call in self.calls if call["error"]]
        sys.stdout.write(f"{step}: {len(self.calls)} calls, {len(failed)} failed\n")
        assert not failed


@asynccontextmanager
async def load(address: str) -> AsyncIterator[Load]:
    command = (sys.executable, "-P", str(ROOT / "tests" / "cluster" / "load.py"), address, "0.2")
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, stdout=asyncio.subprocess.PIPE
    )
    running = Load(process, [])
    reading = asyncio.create_task(running.read())
    try:
        yield running
    finally:
        process.kill()
        await process.wait()
        await reading


def settings(**common: str) -> tuple[str, ...]:
    """Return the chart's settings; `common` are settings of every service."""
    engines = {"llm": LLM, "decode": DECODE}
    own = {service: {**engines.get(service, {}), **common} for service in SERVICES}
    return (*TWO_OF_EACH, *(f"{service}.settings={json.dumps(values)}" for service, values in own.items()))


async def together(works: list[Awaitable[Any]]) -> None:
    await asyncio.gather(*works)


async def replace_pods(cluster: Cluster, component: str) -> None:
    """Replace the pods of a component one by one, the successor first (maxSurge 1, maxUnavailable 0)."""
    for pod in cluster.running(component):
        await cluster.scale(component)
        assert await cluster.delete(pod) == 0, pod.log_tail()


async def move_pod(cluster: Cluster, component: str) -> None:
    """End a pod as the drain of its node does; its successor starts meanwhile."""
    pod = cluster.running(component)[0]
    code, _ = await asyncio.gather(cluster.delete(pod), cluster.scale(component))
    assert code == 0, pod.log_tail()


async def test_an_upgrade_of_everything_and_the_drain_of_a_node_fail_no_call(tmp_path: Path) -> None:
    renderer = helm(VERSIONS[-1])
    async with (
        Cluster(renderer.render("values-cpu.yaml", *settings()), tmp_path) as cluster,
        service_address(cluster, "light-tts-gateway", "grpc") as address,
        load(address) as calls,
    ):
        await calls.more()
        for pod in cluster.running("llm"):
            assert "the checkpoint's voices are here" in pod.log.read_text(encoding="utf-8")
        calls.report("before")
        cluster.objects[:] = renderer.render("values-cpu.yaml", *settings(log_level="debug"))
        await together([replace_pods(cluster, component) for component in SERVICES])
        await calls.more()
        calls.report("upgrade")
        await together([move_pod(cluster, component) for component in SERVICES])
        await calls.more()
        calls.report("drain of a node")
