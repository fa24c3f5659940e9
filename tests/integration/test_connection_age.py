"""A gRPC client reconnects when its connection reaches the maximum age; streams on the old connection finish."""

from __future__ import annotations

import asyncio
import os

import psutil
import pytest

from gateway.settings import GatewaySettings
from lighttts.v1 import tts_pb2
from services.common.rpc import channel_options
from tests.support.fake_stages import Conversation, chunks, rig, until


async def test_a_client_reconnects_at_the_maximum_age_and_running_streams_finish() -> None:
    async with rig(max_connection_age_seconds=0.5) as r:
        client = await Conversation(r).begin()
        await client.next_of(tts_pb2.Started)
        process = psutil.Process(os.getpid())

        def connections() -> set[int]:
            return {
                connection.laddr.port
                for connection in process.net_connections("tcp")
                if connection.raddr and connection.raddr.port == r.server.port
            }

        (old,) = connections()

        async def another() -> bool:
            await r.voices.ListVoices(tts_pb2.ListVoicesRequest())
            return connections() > {old}

        while not await another():  # noqa: ASYNC110 - the client library has no event for it
            await asyncio.sleep(0.05)
        await client.text("One.")
        await client.end()
        assert sum(len(chunk.pcm) for chunk in chunks(await client.rest())) == 4 * 240 * 4
        await until(lambda: old not in connections())


def test_a_client_may_be_silent_for_longer_than_a_worker() -> None:
    between_services = dict(channel_options(2**20))
    to_clients = between_services | dict(GatewaySettings().server_options)
    for option in ("grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms"):
        assert (between_services[option], to_clients[option]) == (1000, 10_000)


def test_a_negative_age_is_refused() -> None:
    with pytest.raises(SystemExit):
        GatewaySettings.from_command_line(["--max-connection-age-seconds", "-1"])
