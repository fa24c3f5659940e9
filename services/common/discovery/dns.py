"""`dns://[server[:port]]/name:port`: every A and AAAA record of a name is a worker; polled at the records' TTL.

gRPC's own resolver queries again only when a connection breaks, so it never sees a worker that was added.

* A record set is queried again when its TTL has passed, not earlier (at least 1 s, so that a TTL of 0 is no busy
  loop). The two address families are timed separately.
* A name that does not exist or has no address means "no workers" only if the answer is authoritative or carries the
  zone's SOA record, whose negative TTL then sets the interval (at most 30 s). A negative answer without either, as a
  faulty cache sends, is a failure.
* After a failure (timeout, SERVFAIL, such a negative answer) the last known addresses stay; the next query follows
  after 1 s.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import SplitResult

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import dns.resolver
import structlog

from services.common.discovery.addresses import join_address, split_address
from services.common.discovery.metrics import FAILURES

log = structlog.get_logger(__name__)

_MIN_SECONDS = 1.0
_MAX_NEGATIVE_SECONDS = 30.0
_QUERY_TIMEOUT_SECONDS = 0.5
_LOOKUP_TIMEOUT_SECONDS = 1.5


class _BareNegativeError(Exception):
    """A negative answer that is neither authoritative nor has an SOA record."""


@dataclass(slots=True)
class _Records:
    """One address family of the name, as of the last answer."""

    kind: Literal["A", "AAAA"]
    hosts: frozenset[str] = field(default_factory=frozenset)
    due: float = 0.0
    """Loop time of the next query."""
    answered: bool = False
    failing: bool = False


class DnsDiscovery:
    """The addresses of a name, queried through `resolver`. A dual-stack name lists each worker once per family."""

    def __init__(self, name: str, port: int, resolver: dns.asyncresolver.Resolver, target: str) -> None:
        self._name = name
        self._port = port
        self._resolver = resolver
        self._target = target
        resolver.timeout = _QUERY_TIMEOUT_SECONDS
        resolver.lifetime = _LOOKUP_TIMEOUT_SECONDS

    @classmethod
    def from_url(cls, url: SplitResult) -> DnsDiscovery:
        name, port = split_address(url.path.removeprefix("/"))
        try:
            dns.name.from_text(name)
            resolver = _resolver(url)
        except dns.exception.DNSException as error:
            raise ValueError(str(error)) from error
        return cls(name, port, resolver, f"dns://{url.netloc}{url.path}")

    @property
    def target(self) -> str:
        return self._target

    async def watch(self) -> AsyncGenerator[frozenset[str], None]:
        loop = asyncio.get_running_loop()
        families = (_Records("A"), _Records("AAAA"))
        known: frozenset[str] | None = None
        while True:
            now = loop.time()
            await asyncio.gather(*(self._refresh(records) for records in families if records.due <= now))
            addresses = families[0].hosts | families[1].hosts
            # At the start, an empty answer of one family does not mean "no workers" while the other one has none.
            complete = known is not None or all(records.answered for records in families)
            if addresses != known and (addresses or complete):
                known = addresses
                yield frozenset(join_address(host, self._port) for host in addresses)
            await asyncio.sleep(max(0.0, min(records.due for records in families) - loop.time()))

    async def _refresh(self, records: _Records) -> None:
        """Query one family and set the time of the next query."""
        try:
            hosts, seconds = await self._query(records)
        except (dns.exception.DNSException, _BareNegativeError, OSError) as error:
            FAILURES.labels(self._target).inc()
            if not records.failing:
                log.warning("lookup failed", target=self._target, records=records.kind, reason=str(error))
            records.failing = True
            seconds = _MIN_SECONDS
        else:
            if records.failing:
                log.info("lookup works again", target=self._target, records=records.kind)
            records.hosts, records.answered, records.failing = hosts, True, False
        records.due = asyncio.get_running_loop().time() + seconds

    async def _query(self, records: _Records) -> tuple[frozenset[str], float]:
        """Return one family's hosts and the seconds they are valid. Raises the failures that `_refresh` handles."""
        # `search`: short names (`decode`, `decode.speech`) use the search list of the system's resolver.
        try:
            answer = await self._resolver.resolve(self._name, records.kind, raise_on_no_answer=False, search=True)
        except dns.resolver.NXDOMAIN as error:
            responses = list(error.responses().values())  # type: ignore[no-untyped-call]
        else:
            if answer.rrset is not None:
                hosts = frozenset(str(record.address) for record in answer.rrset)
                return hosts, max(_MIN_SECONDS, float(answer.chaining_result.minimum_ttl))
            responses = [answer.response]
        if records.hosts and not all(_from_zone(response) for response in responses):
            raise _BareNegativeError(f"{self._name} has no {records.kind} record, but the answer is not from its zone")
        seconds = min((_negative_ttl(response) for response in responses), default=0.0)
        return frozenset(), min(max(_MIN_SECONDS, seconds), _MAX_NEGATIVE_SECONDS)


def _resolver(url: SplitResult) -> dns.asyncresolver.Resolver:
    """Return the system's resolver, or one that queries the server of the target and searches no other domains."""
    if not url.netloc:
        return dns.asyncresolver.Resolver()
    try:
        server = str(ipaddress.ip_address(url.hostname or ""))
    except ValueError as error:
        raise ValueError(f"the DNS server {url.netloc!r} must be an IP address") from error
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.domain = dns.name.root
    resolver.nameservers = [server]
    resolver.port = url.port or 53
    return resolver


def _soa_ttl(response: dns.message.Message) -> float | None:
    """Return the negative TTL of a response's SOA record (RFC 2308): the lower of its TTL and its minimum field."""
    for rrset in response.authority:
        if rrset.rdtype == dns.rdatatype.SOA:
            return float(min(rrset.ttl, rrset[0].minimum))
    return None


def _negative_ttl(response: dns.message.Message) -> float:
    """Return the seconds a negative answer is valid; without an SOA record it must not be cached (0)."""
    return _soa_ttl(response) or 0.0


def _from_zone(response: dns.message.Message) -> bool:
    """Return whether the answer comes from the zone: directly, or through a cache that includes the SOA record."""
    return bool(response.flags & dns.flags.AA) or _soa_ttl(response) is not None
