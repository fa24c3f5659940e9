"""Decode workers for tests of the llm service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest_asyncio

from tests.support.decode_worker import DecodeWorker, Script, StartWorker


@pytest_asyncio.fixture
async def worker() -> AsyncIterator[StartWorker]:
    """Starts decode workers, and stops them after the test."""
    async with AsyncExitStack() as stack:

        async def start(name: str = "decode", **script: Any) -> DecodeWorker:
            made = DecodeWorker(name, Script(**script))
            await made.start()
            stack.push_async_callback(made.stop)
            return made

        yield start
