"""Worker addresses from the EndpointSlices of a service, as JSON objects of the Kubernetes API."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from services.common.discovery.addresses import join_address

Slice = Mapping[str, Any]
"""A discovery.k8s.io/v1 EndpointSlice. In it, empty lists and unknown conditions are absent or null."""

DEFAULT_PORT = "grpc"
_FAMILIES = ("IPv4", "IPv6")
"""In order of preference; FQDN slices belong to no pods."""


AT_ONCE_SECONDS = 60.0
"""Pods that turn NotReady within this time do so at once: a controller changes one after the other."""


@dataclass(slots=True)
class _Pod:
    """One pod, merged from all slices."""

    by_family: dict[str, str] = field(default_factory=dict)
    """Addresses that are ready."""
    unready: dict[str, str] = field(default_factory=dict)
    terminating: bool = False


class Listing:
    """The addresses to use while pods come, go and change.

    When all pods turn NotReady within a short time, that tells more about the cluster than about the pods: a node
    controller or kubelets that lost touch. Then the pods that were listed are listed again, unless they terminate,
    until at least half of them are ready. Callers check the health of each worker themselves, so one that is really
    broken gets no work.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` returns seconds."""
        self.listed: frozenset[str] = frozenset()
        self.kept: frozenset[str] = frozenset()
        """Those of `listed` that are not ready."""
        self._clock = clock
        self._listed_until: dict[str, float] = {}

    def update(self, slices: Iterable[Slice], port: str) -> frozenset[str]:
        """Return the addresses to use now; see `ready_addresses` for the arguments."""
        pods, now = _pods(slices, port), self._clock()
        ready, unready = _first(pods, "by_family"), _first(pods, "unready")
        self._listed_until.update(dict.fromkeys(self.listed, now))
        self._listed_until = {
            address: until
            for address, until in self._listed_until.items()
            if address in unready and until >= now - AT_ONCE_SECONDS
        }
        self.kept = frozenset(self._listed_until if self.kept or not ready else ())
        if len(ready) >= len(self.kept):
            self.kept = frozenset()
        self.listed = ready | self.kept
        return self.listed


def ready_addresses(slices: Iterable[Slice], port: str) -> frozenset[str]:
    """Return `host:port` of every endpoint that is ready and not terminating, each pod once.

    A service has several slices: one per address family and per hundred pods; a pod that moves between slices may be in
    two. A pod with both families counts with its IPv4 address; a pod that any slice marks as terminating is left out.

    Args:
        slices: every slice of the service.
        port: a number, the name of a slice's port, or empty for the port named grpc, else the only one.
    """
    return _first(_pods(slices, port), "by_family")


def _pods(slices: Iterable[Slice], port: str) -> list[_Pod]:
    """Return the pods that do not terminate."""
    pods: dict[str, _Pod] = {}
    for piece in slices:
        family = str(piece.get("addressType"))
        number = port_number(piece, port)
        if family not in _FAMILIES or number is None:
            continue
        for endpoint in piece.get("endpoints") or ():
            _add(pods, endpoint, family, number)
    return [pod for pod in pods.values() if not pod.terminating]


def _first(pods: Iterable[_Pod], kind: Literal["by_family", "unready"]) -> frozenset[str]:
    """Return one address of each pod that has one of this kind, of the preferred family."""
    addresses: list[dict[str, str]] = [getattr(pod, kind) for pod in pods]
    return frozenset(next(of[family] for family in _FAMILIES if family in of) for of in addresses if of)


def port_number(piece: Slice, port: str) -> int | None:
    """Return the port to dial for a slice's endpoints, or None when the slice has no such port."""
    if port.isdigit():
        return int(port)
    numbers = {entry.get("name") or "": entry["port"] for entry in piece.get("ports") or () if entry.get("port")}
    if not port and DEFAULT_PORT not in numbers and len(numbers) == 1:
        return int(next(iter(numbers.values())))
    number = numbers.get(port or DEFAULT_PORT)
    return None if number is None else int(number)


def _add(pods: dict[str, _Pod], endpoint: Mapping[str, Any], family: str, number: int) -> None:
    addresses = endpoint.get("addresses") or ()
    if not addresses:
        return
    address = join_address(str(addresses[0]), number)  # further addresses of an endpoint are reserved by the API
    owner = endpoint.get("targetRef") or {}
    pod = pods.setdefault(str(owner.get("uid") or owner.get("name") or address), _Pod())
    conditions = endpoint.get("conditions") or {}
    if conditions.get("terminating"):
        pod.terminating = True
    elif conditions.get("ready") is not False:  # the API defines unknown as ready
        pod.by_family[family] = address
    else:
        pod.unready[family] = address
