"""The ports on which the processes of a local stack listen."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

HOST = "127.0.0.1"
FREE_RANGE = range(20000, 32000)
"""Free ports are chosen from this range. It is below the range of outgoing connections, so that none of our connections
can occupy a port between its choice and its use."""


class PortError(Exception):
    """A port is not available; the message names it and says what to do."""


@dataclass(frozen=True)
class ServicePorts:
    """The two ports of one process: gRPC and Prometheus metrics."""

    grpc: int
    metrics: int


@dataclass(frozen=True)
class StackPorts:
    """The ports of a stack: one gateway, one encode, and any number of llm and decode workers."""

    gateway: ServicePorts
    http: int
    cosyvoice: int
    """The gateway's port for clients of CosyVoice; 0 switches it off."""
    encode: ServicePorts
    llm: ServicePorts
    decode: tuple[ServicePorts, ...]
    more_llms: tuple[ServicePorts, ...] = ()

    def with_gateway(self, grpc: int | None, http: int | None, cosyvoice: int | None) -> StackPorts:
        """Return these ports with other ones for the gateway; None keeps one."""
        return replace(
            self,
            gateway=self.gateway if grpc is None else replace(self.gateway, grpc=grpc),
            http=self.http if http is None else http,
            cosyvoice=self.cosyvoice if cosyvoice is None else cosyvoice,
        )

    def named(self) -> Iterator[tuple[str, int]]:
        """Yield every port with its purpose, as shown to users."""
        yield "gateway gRPC", self.gateway.grpc
        yield "gateway HTTP", self.http
        if self.cosyvoice:
            yield "gateway CosyVoice", self.cosyvoice
        yield "gateway metrics", self.gateway.metrics
        workers = {"encode": self.encode, "llm": self.llm}
        workers |= {f"llm-{number}": ports for number, ports in enumerate(self.more_llms, start=2)}
        workers |= {f"decode-{number}": ports for number, ports in enumerate(self.decode, start=1)}
        for name, ports in workers.items():
            yield f"{name} gRPC", ports.grpc
            yield f"{name} metrics", ports.metrics


def default_ports(decode_workers: int) -> StackPorts:
    """Return the documented ports: 50050, 8080, 50000 for clients, from 50051 for workers, from 9100 for metrics."""
    return StackPorts(
        gateway=ServicePorts(50050, 9100),
        http=8080,
        cosyvoice=50000,
        encode=ServicePorts(50051, 9101),
        llm=ServicePorts(50052, 9102),
        decode=tuple(ServicePorts(50061 + i, 9111 + i) for i in range(decode_workers)),
    )


def free_ports(decode_workers: int, llm_workers: int = 1) -> StackPorts:
    """Return ports on which no process listens now. Raises PortError if there are too few."""
    http, cosyvoice, *rest = choose_free(6 + 2 * (decode_workers + llm_workers))
    pairs = [ServicePorts(*rest[i : i + 2]) for i in range(0, len(rest), 2)]
    gateway, encode, llm, *workers = pairs
    more_llms, decode = tuple(workers[: llm_workers - 1]), tuple(workers[llm_workers - 1 :])
    return StackPorts(gateway, http, cosyvoice, encode, llm, decode, more_llms)


def choose_free(wanted: int) -> list[int]:
    """Return `wanted` ports on which no process listens now. Raises PortError if there are too few."""
    candidates = random.sample(FREE_RANGE, len(FREE_RANGE))
    found = list(islice(filter(is_free, candidates), wanted))
    if len(found) < wanted:
        raise PortError(
            f"fewer than {wanted} ports are free in {FREE_RANGE.start}-{FREE_RANGE.stop - 1} of {HOST}; stop a server"
        )
    return found


def is_free(port: int) -> bool:
    """Return whether a server could listen on `port` of the loopback address now."""
    with socket.socket() as probe:
        # As servers do: ended connections that linger in the kernel do not occupy the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def require_address(host: str) -> None:
    """Raise PortError unless a server of this machine can listen on `host`, a name or an address."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
    except (OSError, UnicodeError) as error:  # UnicodeError: a label of the name is empty or too long
        raise PortError(
            f"no server can listen on --host {host} ({error}); give an address of this machine, or 0.0.0.0 for all"
        ) from error


def require_free(ports: StackPorts) -> None:
    """Raise PortError, which names the ports, if a port is used twice or by another process."""
    named = list(ports.named())
    numbers = [port for _, port in named]
    double = sorted({port for port in numbers if numbers.count(port) > 1})
    if double:
        raise PortError(f"two services would use port {double[0]}; change --port, --http-port or --cosyvoice-port")
    taken = [f"{port} ({name})" for name, port in named if not is_free(port)]
    if taken:
        raise PortError(
            f"in use on {HOST}: {', '.join(taken)}. Is light-tts running already? Stop the other process, or choose "
            "free ports with --ports free; --port, --http-port and --cosyvoice-port set the gateway's"
        )
