"""Connects to the server that a load is for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Literal

from cli.bench.apis import Api, OwnGrpc, Riva
from cli.client import Access, connect

ApiName = Literal["grpc", "openai", "riva"]
CHANNELS = 8
"""Connections of a gRPC API. One carries about a hundred streams at once; a program behind one gateway has a few."""


@asynccontextmanager
async def open_api(name: ApiName, access: Access, model: str = "tts-1") -> AsyncIterator[Api]:
    """Connect to a server. Raises ClientError if none answers."""
    async with AsyncExitStack() as exits:
        if name == "openai":
            from cli.bench.openai_api import open_openai  # loads on a bare GPU machine go without httpx

            yield await exits.enter_async_context(open_openai(access, model))
            return
        # Channels with equal options would share one connection.
        channels = [access.open(("light-tts.bench", number)) for number in range(CHANNELS)]
        for channel in channels:
            exits.push_async_callback(channel.close)
            await connect(channel, access)
        yield OwnGrpc(channels, access) if name == "grpc" else Riva(channels, access)
