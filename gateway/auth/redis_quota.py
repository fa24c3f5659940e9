"""Quotas that gateways share, counted in Redis."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import structlog

from gateway.auth.caller import Caller
from gateway.auth.quota import LocalQuotas, too_fast, too_many
from gateway.redis_client import reached
from services.common.errors import Unavailable

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = structlog.get_logger(__name__)

LEASE_SECONDS = 30.0
"""How long a stream still counts after its gateway has died."""
RENEWALS = 3
"""Renewals of a lease within its lifetime."""
REST_SECONDS = 5.0
"""After a failure of Redis, how long each gateway counts for itself before it tries again."""

# Redis's clock, because the clocks of gateways may differ.
_NOW = "local t = redis.call('TIME'); local now = t[1] + t[2] / 1e6;"
_SPEND = (
    _NOW
    + """
local rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local tokens = tonumber(redis.call('HGET', KEYS[1], 'tokens') or burst)
local at = tonumber(redis.call('HGET', KEYS[1], 'at') or now)
tokens = math.min(burst, tokens + math.max(0, now - at) * rate)
local wait = 0
if tokens < 1 then wait = (1 - tokens) / rate else tokens = tokens - 1 end
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens), 'at', tostring(now))
redis.call('EXPIRE', KEYS[1], math.ceil(burst / rate) + 1)
return tostring(wait)
"""
)
_CHECK = (
    _NOW
    + """
local rate, burst, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if most > 0 and redis.call('ZCOUNT', KEYS[1], '(' .. tostring(now), '+inf') >= most then return '-1' end
if rate == 0 then return '0' end
local tokens = tonumber(redis.call('HGET', KEYS[2], 'tokens') or burst)
local at = tonumber(redis.call('HGET', KEYS[2], 'at') or now)
tokens = math.min(burst, tokens + math.max(0, now - at) * rate)
return tostring(tokens < 1 and (1 - tokens) / rate or 0)
"""
)
_LEASE = (
    _NOW
    + """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local known = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not known and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[3]), ARGV[1])
redis.call('EXPIRE', KEYS[1], math.ceil(tonumber(ARGV[3])) + 1)
return 1
"""
)


class SharedQuotas:
    """Implements gateway.auth.quota.Quotas. While Redis cannot be reached, each gateway counts for itself: a loose
    limit does less harm than a service that stops."""

    def __init__(self, client: Redis, prefix: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._prefix = prefix
        self._local = LocalQuotas(clock)
        self._clock = clock
        self._rest_until = 0.0

    async def check(self, caller: Caller) -> None:
        if caller.requests_per_minute is None and caller.max_streams is None:
            return
        rate = (caller.requests_per_minute or 0) / 60
        keys = (f"streams:{caller.name}", f"rate:{caller.name}")
        try:
            wait = float(await self._run(_CHECK, keys, rate, caller.burst, caller.max_streams or 0))
        except Unavailable:
            await self._local.check(caller)
            return
        if wait < 0:
            raise too_many(caller)
        if wait > 0:
            raise too_fast(caller, wait)

    async def spend(self, caller: Caller) -> None:
        if caller.requests_per_minute is None:
            return
        rate = caller.requests_per_minute / 60
        try:
            wait = float(await self._run(_SPEND, (f"rate:{caller.name}",), rate, caller.burst))
        except Unavailable:
            await self._local.spend(caller)
            return
        if wait > 0:
            raise too_fast(caller, wait)

    @contextlib.asynccontextmanager
    async def stream(self, caller: Caller, *, counted: bool = False) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as held:
            if caller.max_streams is not None:
                await self._hold(held, caller, caller.max_streams)
            if not counted:
                await self.spend(caller)
            yield

    async def _hold(self, held: contextlib.AsyncExitStack, caller: Caller, most: int) -> None:
        key, lease = f"streams:{caller.name}", secrets.token_hex(8)
        try:
            if not await self._run(_LEASE, (key,), lease, most, LEASE_SECONDS):
                raise too_many(caller)
        except Unavailable:
            await held.enter_async_context(self._local.stream(_streams_only(caller)))
            return
        held.push_async_callback(self._release, key, lease)
        renewing = asyncio.create_task(self._renew(key, lease, most), name=f"quota lease {caller.name}")
        held.push_async_callback(_end, renewing)

    async def _renew(self, key: str, lease: str, most: int) -> None:
        while True:
            await asyncio.sleep(LEASE_SECONDS / RENEWALS)
            with contextlib.suppress(Unavailable):  # already logged; the next renewal may succeed in time
                await self._run(_LEASE, (key,), lease, most, LEASE_SECONDS)

    async def _release(self, key: str, lease: str) -> None:
        with contextlib.suppress(Unavailable), reached("the quota cannot be counted"):  # the lease expires by itself
            await self._client.zrem(self._prefix + key, lease)

    async def _run(self, script: str, keys: tuple[str, ...], *arguments: str | float) -> Any:
        if self._clock() < self._rest_until:
            raise Unavailable("Redis failed a moment ago")
        try:
            with reached("the quota cannot be counted"):
                return await self._client.eval(script, len(keys), *(self._prefix + key for key in keys), *arguments)
        except Unavailable:
            self._rest_until = self._clock() + REST_SECONDS
            raise


def _streams_only(caller: Caller) -> Caller:
    return Caller(caller.name, caller.owner, max_streams=caller.max_streams)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
