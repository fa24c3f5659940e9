"""The HTTP server on every kind of address a pod may be told to listen on."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI

from gateway.process.http_server import HttpServer
from services.common.start_error import StartError


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("0.0.0.0", ["127.0.0.1"]),  # noqa: S104
        ("[::1]", ["[::1]"]),
        ("[::]", ["[::1]", "127.0.0.1"]),
    ],
)
async def test_it_answers_where_it_listens(host: str, reached: list[str]) -> None:
    server = HttpServer(FastAPI(), host, 0)
    await server.start()
    try:
        async with httpx.AsyncClient(timeout=400) as client:
            for address in reached:
                assert (await client.get(f"http://{address}:{server.port}/openapi.json")).status_code == 200
    finally:
        await server.close()


async def test_a_port_in_use_names_the_setting() -> None:
    first = HttpServer(FastAPI(), "127.0.0.1", 0)
    await first.start()
    try:
        with pytest.raises(StartError, match="set LIGHTTTS_HTTP_PORT"):
            await HttpServer(FastAPI(), "127.0.0.1", first.port).start()
    finally:
        await first.close()
