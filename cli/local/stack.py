"""The whole system as processes on loopback, for `light-tts up`, `light-tts demo` and end-to-end tests.

async with Stack(StackConfig(decode_workers=2)) as stack:
    ...                        # stack.gateway.address serves
    stack.decode[0].kill()     # the stack restarts it
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from pydantic import Field

from cli.local.ports import HOST, ServicePorts, StackPorts, choose_free, free_ports, require_address, require_free
from cli.local.process import HEALTH_INTERVAL, Worker, WorkerError, WorkerEvent, WorkerSpec, is_serving
from services.common.end_to_end import GATEWAY_END_TO_END
from services.common.settings import EMBEDDED_MODEL, Settings

EVERY_ADDRESS = ("0.0.0.0", "::", "[::]")  # noqa: S104 - compared, not bound

MOST_OF_A_DEVICE = 0.95
"""Largest share of a device's memory for all processes together; the driver needs the rest."""
LLM_SHARE = 0.15
"""Share of a GPU's memory for an llm worker: the 0.5B model and its K/V cache need about 3 GB, which is 0.15 of 24 GB.
Decode workers get the rest, because the states of their streams decide how many streams fit."""


STOP_MARGIN = 5.0
"""Seconds a process may take to stop after its streams have ended, before it is killed."""


class _Shared(Settings):
    """Settings of the processes that the stack reads too: it waits for their start and their end."""

    drain_grace_seconds: float = Field(default=5.0, ge=0)
    """Shorter than the services' own default, because someone who presses Ctrl-C waits for it."""
    drain_notice_seconds: float = Field(default=1.0, ge=0)
    public_tls_cert: Path | None = None
    tls_cert: Path | None = None
    """With either certificate, gRPC ports need TLS and perhaps a certificate of the client."""


@dataclass(frozen=True)
class StackConfig:
    """The processes of a local stack and their settings."""

    model_dir: Path = EMBEDDED_MODEL
    decode_workers: int = 2
    llm_workers: int = 1
    devices: tuple[str, ...] = ()
    """Devices assigned round-robin to decode workers; llm workers use the first. Empty: each service's default."""
    gateway_host: str = HOST
    """Address the gateway listens on; the services behind it stay on loopback."""
    ports: StackPorts | None = None
    """None chooses free ports, so that several stacks can run at once."""
    log_dir: Path = Path(".run")
    """Folder of the log files, one per process; a start overwrites older ones."""
    log_level: str = "info"
    torch_threads: int = 1
    start_timeout: float = 180.0
    """Longest time for one process to load its model, in seconds, without the time that it waits for a processor."""
    drain_grace: float | None = None
    """Seconds that running streams have to finish when a process stops. None: LIGHTTTS_DRAIN_GRACE_SECONDS, or 5."""
    flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Additional flags per service (encode, llm, decode, gateway)."""
    restart_dead: bool = True
    """Restart a process after a crash; False for tests that need it to stay dead."""


class Stack:
    """Encode, llm and decode workers and a gateway. Entering starts them all and waits until text can be spoken.

    Raises PortError if a port is in use or the host is not of this machine, and WorkerError if a necessary process does
    not start or no text can be spoken. Of several llm or decode workers one is enough; the others are restarted as
    after a crash. Leaving stops every process, also after an error or a cancellation: first the gateway, whose streams
    need the other processes.
    """

    def __init__(self, config: StackConfig, on_event: Callable[[WorkerEvent], None] = lambda event: None) -> None:
        self.config = config
        self.ports = config.ports or free_ports(config.decode_workers, config.llm_workers)
        shared = _Shared.from_command_line([])
        self._drain_grace = shared.drain_grace_seconds if config.drain_grace is None else config.drain_grace
        self._stop_grace = shared.drain_notice_seconds + self._drain_grace + STOP_MARGIN
        self.secure = shared.public_tls_cert is not None
        """Whether applications reach the gateway with TLS."""
        self._health_ports = self.secure or shared.tls_cert is not None
        """Whether processes answer health checks at ports of their own, because their gRPC ports need TLS."""
        decode_target = _target(self.ports.decode)
        llm_ports = (self.ports.llm, *self.ports.more_llms)
        to_encode = ("--encode-target", _target([self.ports.encode]))
        upstream = (*to_encode, "--llm-target", _target(llm_ports))
        model = ("--model-dir", str(config.model_dir), "--torch-threads", str(config.torch_threads))

        def worker(name: str, module: str, ports: ServicePorts, *flags: str) -> Worker:
            extra = config.flags.get(module.removeprefix("services."), ())
            spec = self._spec(name, module, ports, (*flags, *extra))
            return Worker(spec, on_event, config.start_timeout, config.restart_dead)

        self.encode = worker("encode", "services.encode", self.ports.encode, *model)
        llm_flags = (*model, *_placement(config, "llm", 0), "--decode-target", decode_target, *to_encode)
        self.llms = [
            worker(f"llm-{number}" if number > 1 else "llm", "services.llm", ports, *llm_flags)
            for number, ports in enumerate(llm_ports, start=1)
        ]
        self.decode = [
            worker(f"decode-{index + 1}", "services.decode", ports, *model, *_placement(config, "decode", index))
            for index, ports in enumerate(self.ports.decode)
        ]
        client_ports = ("--http-port", str(self.ports.http), "--cosyvoice-port", str(self.ports.cosyvoice or "off"))
        self.gateway = worker("gateway", "gateway", self.ports.gateway, *upstream, *client_ports)

    @property
    def llm(self) -> Worker:
        """The first llm worker, usually the only one."""
        return self.llms[0]

    @property
    def http_url(self) -> str:
        """Base URL of the gateway's HTTP APIs."""
        return f"http{'s' * self.secure}://{self._gateway_address}:{self.ports.http}"

    @property
    def cosyvoice_address(self) -> str:
        """host:port for clients of CosyVoice, over gRPC and HTTP."""
        return f"{self._gateway_address}:{self.ports.cosyvoice}"

    @property
    def addresses(self) -> tuple[tuple[str, str], ...]:
        """Where applications reach each API, and which APIs these are."""
        openai, websocket = f"{self.http_url}/v1", self.http_url.replace("http", "ws", 1)
        served = [
            (self.gateway.address, "gRPC: light-tts, NVIDIA Riva"),
            (openai, "OpenAI, ElevenLabs"),
            (self.http_url, "LightTTS, and a test page"),
            (f"{websocket}/v1/conversation", "light-tts, as over gRPC, in JSON and binary frames"),
            (f"{websocket}/inference_zero_shot_bistream", "LightTTS, text word by word"),
        ]
        if self.ports.cosyvoice:
            served.append((self.cosyvoice_address, "CosyVoice: gRPC and HTTP"))
        return tuple(served)

    @property
    def _gateway_address(self) -> str:
        """Host to reach the gateway from this machine: loopback if it listens on every address."""
        host = self.config.gateway_host
        if host in EVERY_ADDRESS:
            return HOST
        return f"[{host}]" if ":" in host and not host.startswith("[") else host

    def workers(self) -> Iterator[Worker]:
        """Yield every process, the gateway last."""
        yield from (self.encode, *self.llms, *self.decode, self.gateway)

    async def __aenter__(self) -> Self:
        require_address(self.config.gateway_host)
        require_free(self.ports)
        try:
            self.config.log_dir.mkdir(parents=True, exist_ok=True)
            for worker in self.workers():
                worker.spec.log_file.write_bytes(b"")
        except OSError as error:
            raise WorkerError(
                f"cannot write logs into {self.config.log_dir} ({error.strerror}); choose a folder with --log-dir"
            ) from error
        try:
            needed = [self.encode.start(), self.gateway.start()]
            await _all_or_first_error([*needed, _start_any(self.llms), _start_any(self.decode)])
            await self._until_end_to_end()
        except BaseException:  # cancellation too: no started process may remain
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop every process, after its streams have ended; cancelling this call kills those that still run."""
        others = [worker for worker in self.workers() if worker is not self.gateway]
        try:
            await self.gateway.stop(self._stop_grace)
        except asyncio.CancelledError:
            for worker in others:
                worker.kill()
            raise
        finally:
            await asyncio.gather(*(worker.stop(self._stop_grace) for worker in others))

    async def _until_end_to_end(self) -> None:
        """Wait until the gateway reports that text can be spoken. Raises WorkerError."""
        started = time.monotonic()
        while not await is_serving(self.gateway.health, GATEWAY_END_TO_END):
            if time.monotonic() - started > self.config.start_timeout:
                raise WorkerError(
                    f"every service has started, but no text could be spoken within {self.config.start_timeout:.0f} s;"
                    f" the reason is in {self.gateway.spec.log_file}"
                )
            await asyncio.sleep(HEALTH_INTERVAL)

    def _spec(self, name: str, module: str, ports: ServicePorts, flags: tuple[str, ...]) -> WorkerSpec:
        common = {
            "--host": self.config.gateway_host if module == "gateway" else HOST,
            "--port": ports.grpc,
            "--metrics-port": ports.metrics,
            "--worker-name": name,
            "--log-level": self.config.log_level,
            "--log-format": "json",
            "--drain-grace-seconds": self._drain_grace,
        }
        host = self._gateway_address if module == "gateway" else HOST
        health = ""
        if self._health_ports:
            [port] = choose_free(1)
            common["--health-port"], health = port, f"{host}:{port}"
        return WorkerSpec(
            name=name,
            module=module,
            flags=(*(str(part) for pair in common.items() for part in pair), *flags),
            address=f"{host}:{ports.grpc}",
            metrics_port=ports.metrics,
            log_file=self.config.log_dir / f"{name}.log",
            health=health,
        )


def _placement(config: StackConfig, service: Literal["llm", "decode"], index: int) -> tuple[str, ...]:
    """Return the flags for a worker's device and memory share.

    The llm workers are on the first device and have a small share of it; decode workers share the rest of their device
    equally. On a CPU only decode workers share, for the states of their streams.
    """
    devices = config.devices or ("cpu",)
    decode = [devices[worker % len(devices)] for worker in range(config.decode_workers)]
    device = decode[index] if service == "decode" else devices[0]
    if device == "cpu":
        share = min(MOST_OF_A_DEVICE, 1 / decode.count(device))
    else:
        llm_workers = config.llm_workers if device == devices[0] else 0
        llm_share = min(LLM_SHARE, MOST_OF_A_DEVICE / (llm_workers + 1))
        rest = (MOST_OF_A_DEVICE - llm_workers * llm_share) / max(1, decode.count(device))
        share = llm_share if service == "llm" else rest
    placed = ("--device", device) if config.devices else ()
    return (*placed, f"--{service}-memory-fraction", f"{share:.2g}")


def _target(workers: list[ServicePorts] | tuple[ServicePorts, ...]) -> str:
    return "static:///" + ",".join(f"{HOST}:{ports.grpc}" for ports in workers)


async def _start_any(workers: Sequence[Worker]) -> None:
    """Start interchangeable workers; raise the first one's WorkerError if none serves."""
    ends = await asyncio.gather(*(worker.start() for worker in workers), return_exceptions=True)
    errors = [end for end in ends if end is not None]
    unexpected = [error for error in errors if not isinstance(error, WorkerError)]
    if unexpected or len(errors) == len(workers):
        raise (unexpected or errors)[0]
    for worker, end in zip(workers, ends, strict=True):
        if isinstance(end, WorkerError):
            worker.start_later(end)


async def _all_or_first_error(starts: list[Coroutine[None, None, None]]) -> None:
    """Run all; at the first error, cancel the others and raise it itself, not as a group."""
    tasks = [asyncio.ensure_future(start) for start in starts]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
