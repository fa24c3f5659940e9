"""A real redis-server for one test, on loopback, without persistence."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import AsyncIterator

from gateway.redis_client import connect

LIMIT_SECONDS = 400


@contextlib.asynccontextmanager
async def redis_server() -> AsyncIterator[str]:
    """Yield the address of a running server, which is stopped after the block."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: ASYNC220
    try:
        url = f"redis://127.0.0.1:{port}/0"
        async with asyncio.timeout(LIMIT_SECONDS):
            await _answers(url)
        yield url
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)


async def _answers(url: str) -> None:
    from redis.exceptions import ConnectionError as NotYet

    client = connect(url)
    try:
        while True:
            with contextlib.suppress(NotYet):
                if await client.ping():
                    return
            await asyncio.sleep(0.02)
    finally:
        await client.aclose()
