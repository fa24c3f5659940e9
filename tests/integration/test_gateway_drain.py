"""A draining gateway: its streams finish, and clients with open connections open their next calls elsewhere."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from gateway.session.turn import utterance_seed
from lighttts.v1 import audio_pb2, tts_pb2
from services.common.errors import Unavailable
from tests.support.fake_encode import FakeEncode
from tests.support.fake_stages import Rig, Script, ids_of, rig, samples, speech, until
from tests.support.second_gateway import second_gateway

SEED = 7
LONG, SHORT = "One is long.", "Hi."
SHORT_CALLS = 40


def call(r: Rig, text: str) -> Any:
    config = tts_pb2.SynthesisConfig(seed=SEED, format=audio_pb2.SAMPLE_FORMAT_F32LE)
    return r.tts.Synthesize(tts_pb2.SynthesizeRequest(config=config, text=text))


async def events(responses: Any) -> list[Any]:
    return [getattr(response, response.WhichOneof("event") or "") async for response in responses]


def expected(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    return speech(ids_of(text), utterance_seed(SEED, 0, 0))


class Draining:
    """A gateway that drains while one long stream is held."""

    def __init__(self, r: Rig) -> None:
        self._release = asyncio.Event()
        self._rig = r
        self._long: asyncio.Task[list[Any]] | None = None
        self._drain: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        calls = self._rig.llm.calls
        number = len(calls)
        self._rig.llm.scripts[number] = Script(hold={1: self._release})
        self._long = asyncio.create_task(events(call(self._rig, LONG)))
        await until(lambda: len(calls) > number and calls[number].hops == 1)
        self._drain = asyncio.create_task(self._rig.server.drain())

    async def end(self) -> list[Any]:
        """Let the stream go on; return its events when the drain has ended."""
        assert self._long is not None
        assert self._drain is not None
        assert not self._drain.done()
        self._release.set()
        heard = await self._long
        await self._drain
        return heard


@asynccontextmanager
async def two_gateways(workers: int = 1) -> AsyncIterator[Rig]:
    """Two gateways and one channel, which has an open connection to the first of them."""
    async with (
        rig(llms=workers, encodes=workers) as one,
        second_gateway(one) as other,
        grpc.aio.insecure_channel(f"ipv4:{one.server.address},{other.server.address}") as channel,
    ):
        yield dataclasses.replace(one, channel=channel)


async def test_new_calls_on_the_channel_of_a_long_stream_reach_another_gateway() -> None:
    async with two_gateways() as r:
        draining = Draining(r)
        await draining.begin()
        await until(lambda: r.channel.get_state() is not grpc.ChannelConnectivity.READY)  # GOAWAY has arrived
        for _ in range(SHORT_CALLS):
            assert np.array_equal(samples(await events(call(r, SHORT))), expected(SHORT))
        assert np.array_equal(samples(await draining.end()), expected(LONG))


async def test_calls_after_a_drain_without_streams_reach_another_gateway() -> None:
    async with two_gateways() as r:
        await events(call(r, SHORT))
        await r.server.drain()
        for _ in range(SHORT_CALLS):
            assert np.array_equal(samples(await events(call(r, SHORT))), expected(SHORT))


async def test_http_answers_close_their_connections_and_no_request_is_lost() -> None:
    async def speak() -> Any:
        return await r.http.post("/v1/audio/speech", json={"input": SHORT, "response_format": "pcm"})

    async with rig() as r:
        before = await speak()
        assert before.headers.get("connection") != "close"
        draining = Draining(r)
        await draining.begin()
        await until(lambda: r.channel.get_state() is not grpc.ChannelConnectivity.READY)
        for _ in range(3):
            answer = await speak()
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
            assert len(answer.content) == len(before.content)
        assert np.array_equal(samples(await draining.end()), expected(LONG))


async def test_a_drain_of_one_process_of_each_service_fails_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the drain of a node does with two pods of each. The second gateway has spoken with no voice before."""
    monkeypatch.setattr(FakeEncode, "sends_voices", True)
    async with two_gateways(workers=2) as r:
        await events(call(r, SHORT))
        leaving = (r.server, r.encode_servers[0], r.llm_servers[0])
        drains = [asyncio.create_task(server.drain()) for server in leaving]
        await until(lambda: r.channel.get_state() is not grpc.ChannelConnectivity.READY)
        calls = 0
        while calls < SHORT_CALLS or not all(drain.done() for drain in drains):
            assert np.array_equal(samples(await events(call(r, SHORT))), expected(SHORT))
            calls += 1
        await asyncio.gather(*drains)
        r.encodes[1].refusal = Unavailable("no voice is extracted now")
        assert np.array_equal(samples(await events(call(r, SHORT))), expected(SHORT))
