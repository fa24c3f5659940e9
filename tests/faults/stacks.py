"""The stack to break: an own stack whose processes are restarted, or one that already runs on this machine."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import psutil

from cli.client import Access
from cli.local.ports import HOST, free_ports
from cli.local.process import Worker, WorkerError, is_serving
from cli.local.stack import Stack, StackConfig
from tests.faults.proxy import Proxy

RESTART_DELAY = 0.5
"""Seconds from a death to the restart; constant, so that many faults do not add up to long waits."""
POLL_INTERVAL = 0.1
SERVICES = Path(__file__).parents[2] / "services"
COSTS = "costs/guided-cpu.json"
"""Path in each service's folder of the embedded voice's cost model, for the simulated backends."""
HEAL_LIMIT = 180.0
"""Seconds in which every process must serve again."""


class NoStack(Exception):
    """There is no stack to attach to; the message says what to do."""


class Process(Protocol):
    """A process of the stack. `pid` is None while it is not running."""

    @property
    def name(self) -> str: ...

    @property
    def address(self) -> str: ...

    @property
    def pid(self) -> int | None: ...


def send(process: Process, number: signal.Signals) -> None:
    """Send a signal to the process if it is running."""
    pid = process.pid
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


@dataclass(frozen=True)
class Target:
    """The processes and connections to break."""

    access: Access
    gateway: Process
    encode: Process
    llms: Sequence[Process]
    decodes: Sequence[Process]
    proxies: Sequence[Proxy] = ()
    """Between the llm workers and the decode workers; none in an attached stack."""
    http: str = ""
    """Base URL of the gateway's HTTP APIs; empty in an attached stack."""
    cosyvoice: str = ""
    """Base URL for clients of CosyVoice over HTTP; empty in an attached stack."""

    def processes(self) -> Iterator[Process]:
        yield from (self.encode, *self.llms, *self.decodes, self.gateway)

    async def heal(self) -> None:
        """End every disturbance and wait until every process serves. Raises TimeoutError."""
        for proxy in self.proxies:
            proxy.restore()
        for process in self.processes():
            send(process, signal.SIGCONT)
        async with asyncio.timeout(HEAL_LIMIT):
            for process in self.processes():
                while not await is_serving(process.address):  # noqa: ASYNC110 - another process cannot set an event
                    await asyncio.sleep(POLL_INTERVAL)


@asynccontextmanager
async def own_stack(folder: Path, llm_workers: int, decode_workers: int, simulated: bool) -> AsyncIterator[Target]:
    """Start a stack on free ports, with a proxy in front of every decode worker; logs go to `folder`.

    A process that dies is restarted after RESTART_DELAY. `simulated` runs the backends that sleep for a cost model
    instead of computing. Raises WorkerError if the stack does not start.
    """
    async with AsyncExitStack() as cleanup:
        ports = free_ports(decode_workers, llm_workers)
        proxies = [await cleanup.enter_async_context(Proxy(decode.grpc)) for decode in ports.decode]
        targets = ",".join(f"{HOST}:{proxy.port}" for proxy in proxies)
        # The stack's own --decode-target comes first; the last one given counts.
        flags = {"llm": ["--decode-target", f"static:///{targets}"], "decode": list[str]()}
        if simulated:
            for service, values in flags.items():
                costs = SERVICES / service / COSTS
                values += [f"--{service}-backend", "simulated", f"--{service}-cost-file", str(costs)]
            flags["llm"] += ["--lead-seconds", "2"]
            flags["decode"] += ["--decode-admission", "off"]
        config = StackConfig(
            llm_workers=llm_workers,
            decode_workers=decode_workers,
            ports=ports,
            log_dir=folder,
            flags={service: tuple(values) for service, values in flags.items()},
            restart_dead=False,
        )
        stack = await cleanup.enter_async_context(Stack(config))
        keepers = [asyncio.create_task(_keep_alive(worker)) for worker in stack.workers()]
        cleanup.push_async_callback(_cancel, keepers)
        access = Access.of(stack.gateway.address)
        cosyvoice = f"http://{stack.cosyvoice_address}"
        yield Target(access, stack.gateway, stack.encode, stack.llms, stack.decode, proxies, stack.http_url, cosyvoice)


async def _keep_alive(worker: Worker) -> None:
    """Restart a process whenever it has ended."""
    while True:
        await asyncio.sleep(POLL_INTERVAL)
        if worker.pid is None:
            await asyncio.sleep(RESTART_DELAY)
            with suppress(WorkerError):  # killed again during its start
                await worker.restart()


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True)
class AttachedProcess:
    """A process that another program supervises. Parent and name identify it, so that it may be restarted."""

    supervisor: int
    """Process id of the parent."""
    name: str
    address: str

    @property
    def pid(self) -> int | None:
        found = (number for number, process in _services() if process == self)
        return next(found, None)


def attach(access: Access) -> Target:
    """Find the processes of the stack whose gateway listens at `access`, on this machine and without TLS.

    Raises NoStack if there is none, or if it lacks a service.
    """
    port = access.address.rpartition(":")[2]
    processes = [process for _, process in _services()]
    gateways = [process for process in processes if process.address.rpartition(":")[2] == port]
    if not gateways:
        raise NoStack(f"no process of a stack listens on port {port} of this machine; start one with `light-tts up`")
    gateway = gateways[0]
    siblings = sorted(
        (process for process in processes if process.supervisor == gateway.supervisor and process != gateway),
        key=lambda process: process.name,
    )
    stages = {stage: [one for one in siblings if one.name.startswith(stage)] for stage in ("encode", "llm", "decode")}
    if missing := [stage for stage, found in stages.items() if not found]:
        raise NoStack(f"the supervisor of the gateway on port {port} runs no {' and no '.join(missing)} worker")
    return Target(access, gateway, stages["encode"][0], stages["llm"], stages["decode"])


def _services() -> Iterator[tuple[int, AttachedProcess]]:
    """Yield every process of this machine with the flags for a worker name and a port, and its process id."""
    for process in psutil.process_iter(["pid", "ppid", "cmdline"]):
        command = process.info["cmdline"] or []
        flags = dict(pairwise(command))
        if "--worker-name" in flags and "--port" in flags:
            host = flags.get("--host", HOST).replace("0.0.0.0", HOST)  # noqa: S104 - compared, not bound
            address = f"{host}:{flags['--port']}"
            yield process.info["pid"], AttachedProcess(process.info["ppid"], flags["--worker-name"], address)
