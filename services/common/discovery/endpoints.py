"""Worker addresses from the EndpointSlices of a service, as JSON objects of the Kubernetes API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from services.common.discovery.addresses import join_address

Slice = Mapping[str, Any]
"""A discovery.k8s.io/v1 EndpointSlice. In it, empty lists and unknown conditions are absent or null."""

DEFAULT_PORT = "grpc"
_FAMILIES = ("IPv4", "IPv6")
"""In order of preference; FQDN slices belong to no pods."""


@dataclass(slots=True)
class _Pod:
    """One pod, merged from all slices."""

    by_family: dict[str, str] = field(default_factory=dict)
    terminating: bool = False


def ready_addresses(slices: Iterable[Slice], port: str) -> frozenset[str]:
    """Return `host:port` of every endpoint that is ready and not terminating, each pod once.

    A service has several slices: one per address family and per hundred pods; a pod that moves between slices may be in
    two. A pod with both families counts with its IPv4 address; a pod that any slice marks as terminating is left out.

    Args:
        slices: every slice of the service.
        port: a number, the name of a slice's port, or empty for the port named grpc, else the only one.
    """
    pods: dict[str, _Pod] = {}
    for piece in slices:
        family = str(piece.get("addressType"))
        number = port_number(piece, port)
        if family not in _FAMILIES or number is None:
            continue
        for endpoint in piece.get("endpoints") or ():
            _add(pods, endpoint, family, number)
    return frozenset(
        next(pod.by_family[family] for family in _FAMILIES if family in pod.by_family)
        for pod in pods.values()
        if pod.by_family and not pod.terminating
    )


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
