"""The GOAWAY of a draining gateway costs no call: neither one that crosses it on the network nor any of many."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest

from gateway.process.relay import Frames
from gateway.server import GatewayService
from gateway.settings import GatewaySettings
from services.common.start_error import StartError
from tests.faults.proxy import Proxy
from tests.integration.test_gateway_drain import SHORT, call, events, expected
from tests.support.fake_stages import Rig, Script, rig, samples, until
from tests.support.second_gateway import second_gateway

DRAINS = 3
CALLERS = 4


def refuses(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return False
    return True


@asynccontextmanager
async def behind_a_proxy(**settings: Any) -> AsyncIterator[tuple[Rig, Proxy]]:
    """A gateway behind a proxy, another one as its replica, and one channel, which is connected to the first."""
    async with (
        rig(**settings) as one,
        second_gateway(one) as other,
        Proxy(one.server.port) as proxy,
        grpc.aio.insecure_channel(f"ipv4:127.0.0.1:{proxy.port},{other.server.address}") as channel,
    ):
        r = dataclasses.replace(one, channel=channel)
        await events(call(r, SHORT))
        yield r, proxy


async def test_a_call_that_crosses_the_goaway_is_served() -> None:
    async with behind_a_proxy() as (r, proxy):
        known = len(r.llm.calls)
        proxy.stall_answers()
        drain = asyncio.create_task(r.server.drain())
        await until(lambda: refuses(r.server.port))  # GOAWAY is on its way
        crossing = asyncio.create_task(events(call(r, SHORT)))
        await until(lambda: crossing.done() or len(r.llm.calls) > known)
        proxy.restore()
        assert np.array_equal(samples(await crossing), expected(SHORT))
        await drain


async def test_a_client_that_reads_nothing_does_not_hold_the_drain() -> None:
    async with behind_a_proxy(drain_grace_seconds=0.1) as (r, proxy):
        proxy.stall_answers()
        await r.server.drain()


async def test_a_goaway_in_the_middle_of_speech_leaves_the_speech_whole() -> None:
    async with behind_a_proxy() as (r, _):
        release = asyncio.Event()
        number = len(r.llm.calls)
        r.llm.scripts[number] = Script(hold={1: release})
        text = "A long one. " * 20
        speaking = asyncio.create_task(events(call(r, text)))
        await until(lambda: len(r.llm.calls) > number and r.llm.calls[number].hops == 1)
        drain = asyncio.create_task(r.server.drain())
        await until(lambda: refuses(r.server.port))
        release.set()
        heard = samples(await speaking)
        await drain
        r.llm.scripts.clear()
        assert np.array_equal(heard, samples(await events(call(r, text))))


async def drains_under_load(times: int) -> int:
    """Drain a gateway again and again while callers speak without pause. Return the number of calls."""
    calls = 0

    async def speak(r: Rig, order: str, until_set: asyncio.Event) -> None:
        nonlocal calls
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"ipv4:{order}", options=options) as channel:
            while not until_set.is_set():
                assert np.array_equal(
                    samples(await events(call(dataclasses.replace(r, channel=channel), SHORT))), expected(SHORT)
                )
                calls += 1

    async with rig(limit_seconds=200 * times) as r:
        for _ in range(times):
            async with second_gateway(r) as leaving, asyncio.TaskGroup() as callers:
                ended, before = asyncio.Event(), calls
                for _ in range(CALLERS):
                    callers.create_task(speak(r, f"{leaving.server.address},{r.server.address}", ended))
                await until(lambda before=before: calls >= before + 2 * CALLERS)  # type: ignore[misc]
                await leaving.server.drain()
                after = calls
                await until(lambda after=after: calls >= after + 2 * CALLERS)  # type: ignore[misc]
                ended.set()
    return calls


async def test_drains_under_calls_without_pause_fail_none() -> None:
    assert await drains_under_load(DRAINS) > DRAINS * 4 * CALLERS - 1


@pytest.mark.parametrize(("place", "words"), [("x" * 120, "too long"), ("missing", "cannot make a folder")])
async def test_a_folder_that_cannot_hold_the_socket_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, words: str
) -> None:
    folder = tmp_path / place
    if words == "too long":
        folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(StartError, match=f"{words}.* set TMPDIR"):
        GatewayService(GatewaySettings())


def frame(kind: int, flags: int, size: int, stream: int = 0) -> bytes:
    return size.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + bytes(size)


def test_a_frame_is_inserted_only_between_whole_ones() -> None:
    settings, data = frame(4, 0, 6), frame(0, 1, 300, stream=5)
    headers, continuation = frame(1, 0, 20, stream=7), frame(9, 4, 5, stream=7)
    sent = settings + data + headers + continuation + data
    allowed = {len(settings), len(settings + data), len(sent) - len(data), len(sent)}
    for size in (1, 2, 5, 9, 10, 64, len(sent)):
        begun: list[tuple[int, ...]] = []
        frames, found = Frames(lambda *head, begun=begun: begun.append(head)), set()
        assert not frames.between
        for start in range(0, len(sent), size):
            end = min(start + size, len(sent))
            place = frames.advance(sent[start:end])
            assert frames.between == (end in allowed)
            if place >= 0:
                found.add(start + place)
        assert begun == [(4, 0, 0), (0, 1, 5), (1, 0, 7), (9, 4, 7), (0, 1, 5)]
        assert found <= allowed
        assert len(sent) in found
        if size == 1:
            assert found == allowed
