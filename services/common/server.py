"""The life cycle of a service process: listen, load, report SERVING, serve, drain on SIGTERM, exit.

The port answers health checks from the start; it reports SERVING only when the model is loaded and warmed up. On
SIGTERM or SIGINT the process reports NOT_SERVING, waits for the notice period, takes no new streams, lets streams
move or finish within the grace period and exits with 0. A second signal ends the process at once.

After the notice, a worker refuses new streams: its callers watch its health and have other workers. A public service
sends GOAWAY on all connections instead, and serves what still arrives. Its callers come through a load balancer and
keep their connections whatever its health is; after a GOAWAY they open their next calls elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.common import metrics, tracing
from services.common.checkpoint.model_dir import ModelDirError
from services.common.end_to_end import EndToEndService, follow
from services.common.rpc import CallInterceptor, channel_options, registered_methods
from services.common.rpc_batches import release_batches
from services.common.settings import ServiceSettings
from services.common.start_error import StartError
from services.common.telemetry import configure_logging
from services.common.tls import TlsError, server_credentials
from services.common.tracing import TracingError

log = structlog.get_logger(__name__)

LIVENESS = "liveness"
"""Health service name for liveness: SERVING while the process works, also during loading and draining."""
READINESS = "readiness"
"""Health service name for readiness: SERVING while new work is accepted; equal to the gRPC services' names and ""."""
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
ALIVE_POLL_SECONDS = 0.25
"""Interval of the checks whether the service's engine still runs."""
FLUSH_SECONDS = 0.2
"""Time to send the last statuses after all calls have ended."""
STREAM_POLL_SECONDS = 0.01
"""Interval of the checks whether calls have ended."""
LAST_SCRAPE_SECONDS = 20.0
"""Longest time that a failed process, which no longer serves, waits for the next scrape of its metrics."""
TERMINATION_LOG = Path("/dev/termination-log")
"""The file from which Kubernetes reads why a container ended."""


class Service(Protocol):
    """The interface of a service towards this module."""

    name: str
    """Short name: encode, llm, decode, gateway."""
    rpc_services: tuple[str, ...]
    """Full names of its gRPC services, for health and reflection."""

    def register(self, server: grpc.aio.Server) -> None:
        """Add the handlers; called before the server listens."""

    async def start(self) -> None:
        """Load and warm up. Raises StartError or ModelDirError when the service cannot serve."""

    async def drain(self) -> None:
        """Hand over streams that can continue on another worker; called after new streams are refused."""

    async def close(self) -> None:
        """Release everything. Called exactly once, also after a failed start."""


class ServiceFailed(Exception):
    """The service has ended while its process still runs; only a new process helps."""


@runtime_checkable
class EngineService(Protocol):
    """A service that can end before its process does, because its engine thread can end."""

    @property
    def alive(self) -> bool:
        """False when the service can no longer serve."""


@runtime_checkable
class InterceptedService(Protocol):
    """A service that processes calls before its handlers do."""

    interceptors: tuple[grpc.aio.ServerInterceptor, ...]
    """They must not raise, but may return a handler that raises LightTtsErrors."""


@runtime_checkable
class PublicService(Protocol):
    """A service whose callers come through a load balancer instead of a pool that watches its health.

    It listens for them itself, because gRPC sends GOAWAY only when it stops, and then cancels what is on its way.
    """

    async def listen(self) -> int:
        """Start to listen, and return the port. Raises StartError. Called when the gRPC server has started."""

    def retire(self) -> None:
        """Ask clients on connections of other protocols than gRPC to connect again. Called when a drain begins."""

    async def send_goaway(self) -> None:
        """Stop to listen, and tell gRPC clients to open their next calls elsewhere; calls on their way are served."""

    @property
    def streams(self) -> int:
        """Calls that clients have begun and that have not ended, those that gRPC has not handed over yet included."""


class ServiceServer:
    """One service behind one gRPC port. Tests run it in process; `run` runs it as a separate process."""

    def __init__(self, service: Service, settings: ServiceSettings) -> None:
        self.service = service
        self.settings = settings
        self.port = 0
        self.failed = asyncio.Event()
        """Set when the service has ended by itself."""
        self._watching: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        self._interceptor = CallInterceptor(registered_methods(service.rpc_services))
        self._health = health.aio.HealthServicer()
        self._probes: grpc.aio.Server | None = None
        self._server = grpc.aio.server(
            interceptors=[
                self._interceptor,
                *(service.interceptors if isinstance(service, InterceptedService) else ()),
            ],
            options=list((dict(channel_options(settings.max_message_bytes)) | dict(settings.server_options)).items()),
        )

    @property
    def address(self) -> str:
        return f"{self.settings.host}:{self.port}"

    async def start(self) -> None:
        """Listen, load, report SERVING. Raises StartError or ModelDirError; call `close` afterwards in any case."""
        self.service.register(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*self.service.rpc_services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        await self._health.set(LIVENESS, SERVING)
        await self._report(NOT_SERVING)
        if isinstance(self.service, PublicService):
            await self._server.start()
            self.port = await self.service.listen()
        else:
            self.port = self._listen(f"{self.settings.host}:{self.settings.port}")
            await self._server.start()
        await self._start_probes()
        log.info("loading", address=self.address)
        await self.service.start()
        self._interceptor.refusal = None
        await self._report(SERVING)
        log.info("serving", address=self.address)
        if isinstance(self.service, EndToEndService):
            self._following = asyncio.create_task(follow(self.service, self._report_end_to_end))
        if isinstance(self.service, EngineService):
            self._watching = asyncio.create_task(self._watch(self.service))

    def _listen(self, wanted: str) -> int:
        files = self.settings.tls_of_server
        try:
            if files is None:
                return self._server.add_insecure_port(wanted)
            return self._server.add_secure_port(wanted, server_credentials(files))
        except TlsError as error:
            raise StartError(f"TLS: {error}; see LIGHTTTS_TLS_CERT, _KEY and _CA") from error
        except RuntimeError as error:
            raise StartError(f"cannot listen on {wanted}: is another process using it? Set LIGHTTTS_PORT") from error

    async def _start_probes(self) -> None:
        """Serve only health checks, in plaintext, for probes without a certificate."""
        if not self.settings.health_port:
            return
        wanted = f"{self.settings.host}:{self.settings.health_port}"
        self._probes = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._probes)
        try:
            self._probes.add_insecure_port(wanted)
        except RuntimeError as error:
            raise StartError(f"cannot listen on {wanted}; set LIGHTTTS_HEALTH_PORT") from error
        await self._probes.start()

    async def drain(self) -> None:
        """Take the service out of rotation, let running streams move or finish, and stop listening."""
        await self._report(NOT_SERVING)
        grace = self.settings.drain_grace_seconds
        if isinstance(self.service, PublicService):
            self.service.retire()
            await asyncio.sleep(self.settings.drain_notice_seconds)
            await self._retire(self.service, grace)
        else:
            await asyncio.sleep(self.settings.drain_notice_seconds)
            self._interceptor.refusal = "draining; another worker will serve you"
        await self.service.drain()
        # Not by gRPC's own grace: it waits for health watches, which never end.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._interceptor.idle.wait(), grace)
        await self._server.stop(FLUSH_SECONDS)

    async def _retire(self, service: PublicService, grace: float) -> None:
        """Send GOAWAY, and wait until all calls have ended, those that no handler has yet included."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await service.send_goaway()
                # A health watch lasts as long as its client wants.
                while service.streams > self._interceptor.watches:  # noqa: ASYNC110 - gRPC has no event for it
                    await asyncio.sleep(STREAM_POLL_SECONDS)

    async def close(self) -> None:
        """Stop at once; running calls are cancelled."""
        self._interceptor.refusal = "stopping"
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})
        await self._report(NOT_SERVING)
        await self._server.stop(0)
        if self._probes is not None:
            await self._probes.stop(0)
        await self.service.close()

    async def _watch(self, service: EngineService) -> None:
        while service.alive:  # noqa: ASYNC110 - the end of a thread sets no event
            await asyncio.sleep(ALIVE_POLL_SECONDS)
        self._interceptor.refusal = "failed; another worker will serve you"
        await self._health.set(LIVENESS, NOT_SERVING)
        await self._report(NOT_SERVING)
        self.failed.set()

    async def _report(self, status: int) -> None:
        metrics.READY.set(1 if status == SERVING else 0)
        for name in ("", READINESS, *self.service.rpc_services):
            await self._health.set(name, status)
        if status == NOT_SERVING and isinstance(self.service, EndToEndService):
            if self._following is not None:
                self._following.cancel()
                await asyncio.wait({self._following})
            metrics.END_TO_END.labels(self.service.name).set(0)
            await self._report_end_to_end(False)

    async def _report_end_to_end(self, able: bool) -> None:
        if isinstance(self.service, EndToEndService):
            await self._health.set(self.service.end_to_end, SERVING if able else NOT_SERVING)


def run(make_service: Callable[[], Service], settings: ServiceSettings, name: str) -> int:
    """Run a service until a signal stops it, and return the process's exit code."""
    configure_logging(name, settings.worker_name, settings.log_level, settings.log_format)
    release_batches()
    try:
        if settings.otel_endpoint:
            tracing.configure(name, settings.worker_name, settings.otel_endpoint, settings.otel_ratio)
        asyncio.run(_live(make_service, settings))
    except (StartError, ModelDirError, TlsError, TracingError) as error:
        log.error("cannot start", reason=str(error))
        _write_termination_message(str(error))
        return 1
    except ServiceFailed as error:
        log.error("failed", reason=str(error))
        _write_termination_message(str(error))
        return 1
    except Exception as error:
        log.exception("failed")
        _write_termination_message(f"{type(error).__name__}: {error}")
        return 1
    finally:
        tracing.close()
    return 0


async def _live(make_service: Callable[[], Service], settings: ServiceSettings) -> None:
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        metrics.watch_tasks(loop)
        metrics.serve_metrics(settings.host, settings.metrics_port)
    except OSError as error:
        raise StartError(
            f"cannot serve metrics on port {settings.metrics_port} ({error}); set LIGHTTTS_METRICS_PORT"
        ) from error
    server = ServiceServer(make_service(), settings)
    starting = asyncio.create_task(server.start())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            failing = asyncio.create_task(server.failed.wait())
            await asyncio.wait({stopping, failing}, return_when=asyncio.FIRST_COMPLETED)
            failing.cancel()
            if server.failed.is_set():
                scrape = asyncio.create_task(metrics.until_scraped(LAST_SCRAPE_SECONDS))
                await asyncio.wait({stopping, scrape}, return_when=asyncio.FIRST_COMPLETED)
                scrape.cancel()
                raise ServiceFailed(f"the {server.service.name} engine's thread has ended; its error is in the log")
            log.info("draining")
            await server.drain()
    finally:
        for task in (starting, stopping):
            task.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)
        await server.close()
        log.info("stopped")


def _write_termination_message(message: str) -> None:
    if TERMINATION_LOG.exists() and os.access(TERMINATION_LOG, os.W_OK):
        TERMINATION_LOG.write_text(message[:4096], encoding="utf-8")
