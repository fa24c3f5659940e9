"""A second gateway with the same fake workers, like a replica."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc.aio

from gateway.server import GatewayService
from gateway.settings import GatewaySettings
from services.common.server import ServiceServer
from tests.support.fake_stages import Rig


@asynccontextmanager
async def second_gateway(first: Rig, **settings: Any) -> AsyncIterator[Rig]:
    """Run it within the first one's rig, with the same registered voices. The channel is the second gateway's; the HTTP
    client stays the first one's."""
    shared = first.server.settings.model_dump(include={"encode_target", "llm_target", "voices_dir"})
    options: dict[str, Any] = {"drain_notice_seconds": 0, "http_port": 0, "port": 0, "cosyvoice_port": "off"}
    gateway_settings = GatewaySettings(**(options | shared | settings))
    gateway = GatewayService(gateway_settings)
    server = ServiceServer(gateway, gateway_settings)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.close)
        await server.start()
        channel = grpc.aio.insecure_channel(server.address)
        stack.push_async_callback(channel.close)
        yield replace(first, gateway=gateway, server=server, channel=channel)
