"""A pool whose service is scaled to zero: requests get their refusal at once."""

from __future__ import annotations

import asyncio

import pytest

from services.common.errors import Unavailable
from tests.integration.test_pool import StartWorker, picks, running, start_worker, until
from tests.support.workers import ListedWorkers

__all__ = ["start_worker"]


async def test_a_pool_that_has_been_empty_for_the_wait_refuses_at_once(start_worker: StartWorker) -> None:
    worker, now = await start_worker(), [0.0]
    listed = ListedWorkers()
    async with running(listed, wait_seconds=3600, clock=lambda: now[0]) as pool:
        await until(lambda: pool._empty_since is not None)
        waiting = asyncio.ensure_future(picks(pool, 1))
        await asyncio.sleep(0)
        now[0] = 3600.0
        with pytest.raises(Unavailable, match="none is known") as refusal:
            await picks(pool, 1)
        assert refusal.value.retry_after == 1.0
        listed.put(worker.address)
        assert await waiting == {worker.address: 1}
        listed.put()
        await until(lambda: pool._empty_since is not None)
        again = asyncio.ensure_future(picks(pool, 1))  # it was emptied just now, so a worker may follow
        await asyncio.sleep(0)
        listed.put(worker.address)
        assert await again == {worker.address: 1}
