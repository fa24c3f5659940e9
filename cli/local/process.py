"""Supervises one process of a local stack: starts it, restarts it after a crash, stops it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cli.local.start_clock import StartClock, processor_seconds

FIRST_BACKOFF = 0.5
LONGEST_BACKOFF = 30.0
"""Seconds before a dead worker is restarted: doubled after each death, up to the longest."""
BACKOFF_RESET = 60.0
"""A worker that has run for this many seconds starts with the first backoff again."""
HEALTH_INTERVAL = 0.1
"""Seconds between health checks of a starting worker."""


def module_command(module: str, *flags: str) -> tuple[str, ...]:
    """Command line that runs a module of the installed package with this Python.

    -P keeps the current directory off the import path. Without it, a file there with a library's name (`h11.py`) would
    be imported instead of the library.
    """
    return (sys.executable, "-P", "-m", module, *flags)


class WorkerError(Exception):
    """A worker did not start; the message names it, says why, and ends with the last lines of its log."""


@dataclass(frozen=True)
class WorkerSpec:
    """How to start one process: `module` with `flags`. It serves at `address` and writes to `log_file`."""

    name: str
    module: str
    flags: tuple[str, ...]
    address: str
    metrics_port: int
    log_file: Path
    health: str = ""
    """Where it answers health checks without TLS; empty: at `address`."""


Kind = Literal["starting", "serving", "warned", "died", "stopped"]


@dataclass(frozen=True)
class WorkerEvent:
    """A change of a worker's state, for users to read."""

    worker: str
    kind: Kind
    detail: str


class Worker:
    """A supervised process in its own process group, so that a terminal's Ctrl-C reaches only the supervisor."""

    def __init__(
        self,
        spec: WorkerSpec,
        on_event: Callable[[WorkerEvent], None],
        start_timeout: float,
        restart_dead: bool,
    ) -> None:
        self.spec = spec
        self.name = spec.name
        self.address = spec.address
        self.health = spec.health or spec.address
        self._on_event = on_event
        self._start_timeout = start_timeout
        self._restart_dead = restart_dead
        self._process: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """Process id, None if it does not run."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        """Start the process and wait until it serves. Raises WorkerError if it dies or takes too long."""
        await self._spawn()
        await self._until_serving()
        self._watcher = asyncio.create_task(self._watch(), name=f"watch {self.name}")

    def start_later(self, error: WorkerError) -> None:
        """Report `error`, with which a start failed, and restart the worker as after a crash."""
        self._event("died", str(error))
        self.kill()
        self._watcher = asyncio.create_task(self._watch(), name=f"watch {self.name}")

    async def stop(self, grace: float) -> None:
        """Stop the process with SIGTERM, or SIGKILL after `grace` seconds or if this call is cancelled."""
        try:
            if self._watcher is not None:
                self._watcher.cancel()
                await asyncio.gather(self._watcher, return_exceptions=True)
                self._watcher = None
            process = self._process
            if process is None or process.returncode is not None:
                return
            self._signal(signal.SIGTERM)
            self.thaw()  # a frozen process handles SIGTERM only after SIGCONT
            await asyncio.wait_for(process.wait(), grace)
        except TimeoutError:
            self._event("died", f"did not stop within {grace:.0f} s, killed")
        finally:
            self.kill()
            if self._process is not None:
                await self._process.wait()
        if process is not None:
            self._event("stopped", f"exit code {process.returncode}")

    async def restart(self, grace: float = 5.0) -> None:
        """Stop the process if it runs, start it and wait until it serves. Raises WorkerError."""
        await self.stop(grace)
        await self.start()

    def kill(self) -> None:
        """End the process at once (SIGKILL); the supervisor acts as after a crash."""
        self._signal(signal.SIGKILL)

    def freeze(self) -> None:
        """Halt the process (SIGSTOP): its connections stay open but get no answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue a frozen process (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    async def _spawn(self) -> None:
        self._event("starting", f"log: {self.spec.log_file}")
        with self.spec.log_file.open("ab") as output:
            self._log_start = output.tell()
            self._process = await asyncio.create_subprocess_exec(
                *module_command(self.spec.module, *self.spec.flags),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    async def _until_serving(self) -> None:
        started = time.monotonic()
        clock = StartClock(started, processor_seconds(self.pid))
        while not await is_serving(self.health):
            if self.pid is None:
                raise WorkerError(f"{self.name} ended while starting ({self._ending()}).\n{self._log_tail()}")
            if clock.seconds(time.monotonic(), processor_seconds(self.pid)) > self._start_timeout:
                limit = f"{self._start_timeout:.0f} s, without the time that it waited for a processor"
                raise WorkerError(f"{self.name} was not ready within {limit}.\n{self._log_tail()}")
            await asyncio.sleep(HEALTH_INTERVAL)
        self._event("serving", f"on {self.address} after {time.monotonic() - started:.1f} s")
        for message in self._logged_errors():
            self._event("warned", message)

    async def _watch(self) -> None:
        backoff = FIRST_BACKOFF
        while self._process is not None:
            began = time.monotonic()
            await self._process.wait()
            if not self._restart_dead:
                self._event("died", self._ending())
                return
            if time.monotonic() - began > BACKOFF_RESET:
                backoff = FIRST_BACKOFF
            self._event("died", f"{self._ending()}; restart in {backoff:.1f} s (log: {self.spec.log_file})")
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, LONGEST_BACKOFF)
            try:
                await self._spawn()
                await self._until_serving()
            except (WorkerError, OSError) as error:  # OSError: the folder of the logs has been removed, for example
                self._event("died", str(error))
                self.kill()

    def _ending(self) -> str:
        code = None if self._process is None else self._process.returncode
        if code is not None and code < 0:
            return f"ended by {signal.Signals(-code).name}"
        return f"exit code {code}"

    def _logged_errors(self) -> list[str]:
        """Return the errors logged since the start. A serving process can have some, such as a missing GPU."""
        try:
            text = self.spec.log_file.read_bytes()[self._log_start :].decode(errors="replace")
        except OSError:
            return []
        return [readable(line) for line in text.splitlines() if is_error(line)]

    def _log_tail(self, lines: int = 15) -> str:
        try:
            text = self.spec.log_file.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            return f"Its log cannot be read: {error}"
        tail = [f"  {readable(line)}" for line in text.splitlines()[-lines:]]
        return "\n".join([f"The end of {self.spec.log_file}:", *tail])

    def _event(self, kind: Kind, detail: str) -> None:
        self._on_event(WorkerEvent(self.name, kind, detail))


def is_error(line: str) -> bool:
    """Return whether a log line is a JSON record of level error or critical."""
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and record.get("level") in ("error", "critical")


def readable(line: str) -> str:
    """Format a JSON log line as `level event key=value ...` with the traceback below it; return others unchanged."""
    try:
        record = json.loads(line)
    except ValueError:
        return line
    if not isinstance(record, dict) or "event" not in record:
        return line
    skipped = ("event", "level", "timestamp", "logger", "service", "worker", "exception")
    fields = "".join(f" {key}={value}" for key, value in record.items() if key not in skipped)
    trace = f"\n{record['exception']}" if "exception" in record else ""
    return f"{record.get('level', '')} {record['event']}{fields}{trace}".strip()


async def is_serving(address: str, service: str = "", seconds: float = 1.0) -> bool:
    """Return whether the process at `address` reports SERVING for a health service; by default for itself.

    A process that does not answer within `seconds` is not serving.
    """
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # its type stubs omit the methods
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=seconds)
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
