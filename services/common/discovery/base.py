"""The protocol of all kinds of discovery, and the factory that parses a target."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

from services.common.discovery.dns import DnsDiscovery
from services.common.discovery.kubernetes import KubernetesDiscovery
from services.common.discovery.static import StaticDiscovery


class Discovery(Protocol):
    """A source of worker addresses."""

    @property
    def target(self) -> str:
        """The target this was created from, for logs."""

    def watch(self) -> AsyncGenerator[frozenset[str], None]:
        """Yield the full set of addresses (`host:port`): first as soon as it is known, then at every change.

        A failing source yields nothing: the last set stays valid until the next successful lookup. An empty set means
        that there are no workers, not that the lookup failed. The generator ends when the set can no longer change.
        """


_SCHEMES: dict[str, tuple[Callable[[SplitResult], Discovery], str]] = {
    "static": (StaticDiscovery.from_url, "static:///host:port,host:port"),
    "dns": (DnsDiscovery.from_url, "dns:///name:port or dns://server:port/name:port"),
    "kubernetes": (KubernetesDiscovery.from_url, "kubernetes:///service[.namespace][:port]"),
}


def discover(target: str) -> Discovery:
    """Return the discovery for a target, by its scheme.

    * `static:///host:port,host:port`: a fixed list.
    * `dns://[server[:port]]/name:port`: the A and AAAA records of a name, polled.
    * `kubernetes:///service[.namespace][:port]`: the Ready pods behind a service, watched.

    Raises ValueError, with the correct form, for an unknown scheme or a malformed target.
    """
    try:
        url = urlsplit(target)
    except ValueError as error:
        raise ValueError(f"discovery target {target!r}: {error}") from error
    if url.scheme not in _SCHEMES:
        forms = "; ".join(form for _, form in _SCHEMES.values())
        raise ValueError(f"discovery target {target!r}: the scheme {url.scheme!r} is unknown; write {forms}")
    make, form = _SCHEMES[url.scheme]
    if not url.path.strip("/") or url.query or url.fragment:
        raise ValueError(f"discovery target {target!r} is malformed; write {form} (mind the third slash)")
    try:
        return make(url)
    except ValueError as error:
        raise ValueError(f"discovery target {target!r}: {error}") from error
