"""Several gateway processes behind the same ports: one interpreter serves only so many streams.

The kernel spreads connections over the processes (SO_REUSEPORT); a gRPC connection stays with one of them, and comes
anew when it has its age (`max_connection_age_seconds`).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any

import structlog
from prometheus_client import multiprocess

from gateway.server import GatewayService
from gateway.settings import GatewaySettings
from services.common import metrics
from services.common.server import StartError, run
from services.common.telemetry import configure_logging

log = structlog.get_logger(__name__)

START_SECONDS = 10.0
"""A process that ends sooner than this could not start; one that ends later is replaced."""
PAUSE_SECONDS = 1.0
"""Before a process is replaced."""
METRICS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""Where prometheus_client's processes keep their counts, if this variable names a directory."""


def serve(settings: GatewaySettings) -> int:
    """One process's life; returns its exit code."""
    return run(lambda: GatewayService(settings), settings, GatewayService.name)


def supervise(settings: GatewaySettings) -> int:
    """Runs `settings.workers` processes until told to stop; returns the exit code of it all."""
    configure_logging("gateway", settings.worker_name, settings.log_level, settings.log_format)
    try:
        with _shared_ports(settings) as shared, tempfile.TemporaryDirectory(prefix="lighttts-metrics-") as counts:
            os.environ[METRICS_DIRECTORY] = counts
            metrics.serve_metrics(settings.host, settings.metrics_port)
            return _Supervisor(shared).run(settings.workers)
    except (OSError, StartError) as error:
        log.error("cannot start", reason=str(error))
        return 1


class _Supervisor:
    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._processes: dict[int, tuple[SpawnProcess, float]] = {}
        self._signals = 0

    def run(self, count: int) -> int:
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._stop)
        code = 0
        for number in range(count):
            self._start(number)
        while self._processes:
            wait([process.sentinel for process, _ in self._processes.values()])
            for number, (process, began) in list(self._processes.items()):
                if process.exitcode is None:
                    continue
                del self._processes[number]
                multiprocess.mark_process_dead(process.pid)  # type: ignore[no-untyped-call]
                if self._signals:
                    code = code or abs(process.exitcode)
                elif time.monotonic() - began < START_SECONDS:
                    log.error("a process could not start", process=number, exit_code=process.exitcode)
                    code = 1
                    self._stop()
                else:
                    log.error(
                        "a process ended; another one takes its place", process=number, exit_code=process.exitcode
                    )
                    time.sleep(PAUSE_SECONDS)
                    if not self._signals:
                        self._start(number)
        return code

    def _start(self, number: int) -> None:
        name = f"{self._settings.worker_name}-{number}"
        settings = self._settings.model_copy(update={"worker_name": name, "workers": 1, "metrics_port": 0})
        process = multiprocessing.get_context("spawn").Process(target=_work, args=(settings,), name=name)
        process.start()
        self._processes[number] = process, time.monotonic()
        if self._signals:  # one that came while it started
            process.terminate()

    def _stop(self, number: int = signal.SIGTERM, frame: FrameType | None = None) -> None:
        """The first signal lets the processes drain, the second one ends them."""
        self._signals += 1
        for process, _ in self._processes.values():
            process.terminate() if self._signals == 1 else process.kill()


def _work(settings: GatewaySettings) -> None:
    os.setsid()  # a terminal's Ctrl-C is the supervisor's, who passes it on
    warnings.filterwarnings("ignore", message="Removal of labels", category=UserWarning)
    sys.exit(serve(settings))


@contextlib.contextmanager
def _shared_ports(settings: GatewaySettings) -> Iterator[GatewaySettings]:
    """The settings with ports that are certain, each held until the end, so that 0 is the same port to all."""
    changes: dict[str, Any] = {"share_ports": True}
    with contextlib.ExitStack() as stack:
        for name in ("port", "http_port", "cosyvoice_port"):
            wanted = getattr(settings, name)
            if wanted != "off":
                changes[name] = stack.enter_context(_held(settings.host.strip("[]"), wanted, name))
        yield settings.model_copy(update=changes)


@contextlib.contextmanager
def _held(host: str, port: int, name: str) -> Iterator[int]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            holder.bind((host, port))
        except OSError as error:
            raise StartError(f"cannot listen on {host}:{port}: {error}; set LIGHTTTS_{name.upper()}") from error
        yield holder.getsockname()[1]
