"""A DNS server on loopback; tests change its records while it runs."""

from __future__ import annotations

import asyncio
from collections import Counter

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

SOA = ". admin.test. 1 60 60 60 60"


class DnsServer(asyncio.DatagramProtocol):
    """Answers A and AAAA queries over UDP from `records`; counts queries by (name, type).

    `records` maps a name to its addresses of either family; a name that is absent does not exist. Record types in
    `silent` get no answer at all.
    """

    def __init__(self, ttl: int = 1) -> None:
        self.ttl = ttl
        self.ttls: dict[str, int] = {}
        self.records: dict[str, list[str]] = {}
        self.authoritative = True
        self.failing = False
        self.silent: set[str] = set()
        self.queries: Counter[tuple[str, str]] = Counter()
        self._transport: asyncio.DatagramTransport | None = None
        self._arrived = asyncio.Event()

    async def __aenter__(self) -> DnsServer:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._transport is not None:
            self._transport.close()
        await asyncio.sleep(0)

    @property
    def port(self) -> int:
        assert self._transport is not None
        return int(self._transport.get_extra_info("sockname")[1])

    async def asked(self, name: str, kind: str, times: int) -> None:
        """Wait until a name has been queried `times` times in total."""
        while self.queries[name, kind] < times:
            self._arrived.clear()
            await self._arrived.wait()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        if dns.rdatatype.to_text(query.question[0].rdtype) in self.silent:
            return
        assert self._transport is not None
        self._transport.sendto(self._answer(query).to_wire(), addr)

    def _answer(self, query: dns.message.Message) -> dns.message.Message:
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True)
        kind = dns.rdatatype.to_text(question.rdtype)
        self.queries[name, kind] += 1
        self._arrived.set()
        response = dns.message.make_response(query)
        if self.failing:
            response.set_rcode(dns.rcode.SERVFAIL)
            return response
        if name not in self.records:
            response.set_rcode(dns.rcode.NXDOMAIN)
        ttl = self.ttls.get(name, self.ttl)
        addresses = [a for a in self.records.get(name, ()) if (":" in a) == (kind == "AAAA")]
        if addresses:
            response.answer.append(dns.rrset.from_text_list(question.name, ttl, "IN", kind, addresses))
        if self.authoritative:
            response.flags |= dns.flags.AA
            if not addresses:
                response.authority.append(dns.rrset.from_text("test.", ttl, "IN", "SOA", SOA))
        return response
