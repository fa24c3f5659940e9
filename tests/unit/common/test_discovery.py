"""Discovery: targets are parsed, and changes of DNS records are delivered when their TTL has passed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
import pytest_asyncio
from prometheus_client import REGISTRY

from services.common.discovery import discover
from tests.support.dns_server import DnsServer

NAME = "decode.test"


@pytest_asyncio.fixture
async def server() -> AsyncIterator[DnsServer]:
    async with DnsServer() as server:
        yield server


def target(server: DnsServer, name: str = NAME) -> str:
    return f"dns://127.0.0.1:{server.port}/{name}:50053"


def failures(server: DnsServer) -> float:
    return REGISTRY.get_sample_value("lighttts_discovery_failures_total", {"target": target(server)}) or 0.0


@pytest.mark.parametrize(
    ("bad", "hint"),
    [
        ("consul:///decode", "static:///host:port.*dns:///name:port"),
        ("decode:50053", "the scheme 'decode' is unknown"),
        ("", "the scheme '' is unknown"),
        ("static:///", "malformed; write static:///"),
        ("static:///decode", "has no port"),
        ("static:///decode:50053,", "has no port"),
        ("static:///:50053", "has no host"),
        ("static:///decode:0", "1 to 65535"),
        ("static:///decode:http", "the port 'http'"),
        ("static:///::1:50053", "in brackets"),
        ("static://decode:50053", "third slash"),
        ("static://decode:50053/x:1", "three slashes"),
        ("dns:///decode", "has no port"),
        ("dns://decode:50053", "malformed; write dns:///"),
        ("dns://resolver.test/decode:50053", "must be an IP address"),
        ("dns://127.0.0.1:x/decode:50053", "127.0.0.1:x"),
        ("dns:///a..b:50053", "a..b"),
    ],
)
def test_a_malformed_target_is_refused_with_the_correct_form(bad: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        discover(bad)


async def test_a_static_list_is_delivered_once() -> None:
    sets = [addresses async for addresses in discover("static:///a:1,[::1]:2,a:1").watch()]
    assert sets == [frozenset({"a:1", "[::1]:2"})]


async def test_the_system_resolver_is_used_when_no_server_is_named() -> None:
    assert discover("dns:///decode.speech:50053").target == "dns:///decode.speech:50053"


async def test_added_and_removed_records_are_seen(server: DnsServer) -> None:
    server.records[NAME] = ["127.0.0.1"]
    async with asyncio.timeout(400), aclosing(discover(target(server)).watch()) as sets:
        assert await anext(sets) == {"127.0.0.1:50053"}
        server.records[NAME] = ["127.0.0.1", "127.0.0.2", "::1"]
        seen = await anext(sets)
        while len(seen) < 3:  # the two families may arrive separately
            seen = await anext(sets)
        assert seen == {"127.0.0.1:50053", "127.0.0.2:50053", "[::1]:50053"}
        server.records[NAME] = ["127.0.0.2"]
        while seen != {"127.0.0.2:50053"}:
            seen = await anext(sets)


async def test_records_are_not_queried_again_before_their_ttl(server: DnsServer) -> None:
    server.records = {"slow.test": ["127.0.0.1"], NAME: ["127.0.0.1"]}
    server.ttls = {"slow.test": 3600}
    async with asyncio.timeout(400), aclosing(discover(target(server, "slow.test")).watch()) as slow:
        await anext(slow)
        change = asyncio.ensure_future(anext(slow))
        async with aclosing(discover(target(server)).watch()) as quick:
            await anext(quick)
            polling = asyncio.ensure_future(anext(quick))
            await server.asked(NAME, "A", 3)
            polling.cancel()
            await asyncio.gather(polling, return_exceptions=True)
        change.cancel()
        await asyncio.gather(change, return_exceptions=True)
    assert server.queries["slow.test", "A"] == 1


async def test_a_name_that_its_zone_denies_has_no_workers(server: DnsServer) -> None:
    server.records[NAME] = ["127.0.0.1"]
    async with asyncio.timeout(400), aclosing(discover(target(server)).watch()) as sets:
        await anext(sets)
        del server.records[NAME]
        assert await anext(sets) == frozenset()
        server.records[NAME] = ["127.0.0.2"]
        assert await anext(sets) == {"127.0.0.2:50053"}
    assert failures(server) == 0


@pytest.mark.parametrize("trouble", ["servfail", "bare negative answer"])
async def test_a_failure_keeps_the_last_known_workers(server: DnsServer, trouble: str) -> None:
    server.records[NAME] = ["127.0.0.1"]
    async with asyncio.timeout(400), aclosing(discover(target(server)).watch()) as sets:
        await anext(sets)
        change = asyncio.ensure_future(anext(sets))
        asked = server.queries[NAME, "A"]
        server.failing = trouble == "servfail"
        server.authoritative = False
        del server.records[NAME]
        await server.asked(NAME, "A", asked + 2)
        assert not change.done()
        server.failing = False
        server.records[NAME] = ["127.0.0.2"]
        assert await change == {"127.0.0.2:50053"}
    assert failures(server) >= 1


async def test_one_address_family_without_answers_does_not_delay_the_other(server: DnsServer) -> None:
    server.records[NAME] = ["127.0.0.1"]
    server.silent = {"AAAA"}
    async with asyncio.timeout(400), aclosing(discover(target(server)).watch()) as sets:
        assert await anext(sets) == {"127.0.0.1:50053"}
        server.records[NAME] = ["127.0.0.2"]
        assert await anext(sets) == {"127.0.0.2:50053"}


async def test_one_family_without_records_does_not_empty_a_list_that_is_not_known_yet(server: DnsServer) -> None:
    server.records[NAME] = ["127.0.0.1"]
    server.silent = {"A"}
    async with asyncio.timeout(400), aclosing(discover(target(server)).watch()) as sets:
        first = asyncio.ensure_future(anext(sets))
        await server.asked(NAME, "AAAA", 2)
        server.silent = set()
        assert await first == {"127.0.0.1:50053"}
