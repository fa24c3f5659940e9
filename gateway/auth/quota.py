"""How much each caller may do at once and per minute."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.auth.caller import Caller
from services.common.errors import QuotaExceeded

STREAM_RETRY_SECONDS = 1.0
"""When a refused stream may be tried again: the end of another one cannot be known."""


class Quotas(Protocol):
    """Each raises QuotaExceeded, with the time to wait."""

    async def spend(self, caller: Caller) -> None:
        """Counts one request."""

    def stream(self, caller: Caller) -> contextlib.AbstractAsyncContextManager[None]:
        """Counts one request, and one stream while the block runs."""


@dataclass
class _Bucket:
    tokens: float
    at: float


class LocalQuotas:
    """Quotas of this process alone: with n gateways a caller may do n times as much."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}  # as many as there are keys
        self._streams: Counter[str] = Counter()

    async def spend(self, caller: Caller) -> None:
        if caller.requests_per_minute is None:
            return
        now, rate = self._clock(), caller.requests_per_minute / 60
        bucket = self._buckets.setdefault(caller.name, _Bucket(caller.burst, now))
        bucket.tokens = min(caller.burst, bucket.tokens + (now - bucket.at) * rate)
        bucket.at = now
        if bucket.tokens < 1:
            raise too_fast(caller, (1 - bucket.tokens) / rate)
        bucket.tokens -= 1

    @contextlib.asynccontextmanager
    async def stream(self, caller: Caller) -> AsyncIterator[None]:
        if caller.max_streams is not None and self._streams[caller.name] >= caller.max_streams:
            raise too_many(caller)
        self._streams[caller.name] += 1
        try:
            await self.spend(caller)
            yield
        finally:
            self._streams[caller.name] -= 1
            if not self._streams[caller.name]:
                del self._streams[caller.name]


def too_fast(caller: Caller, retry_after: float) -> QuotaExceeded:
    """The refusal of a request that came too early by `retry_after` seconds."""
    return QuotaExceeded(
        f"key {caller.name!r} may make {caller.requests_per_minute:g} requests per minute;"
        f" try again in {math.ceil(retry_after)} s",
        retry_after=retry_after,
        subject=caller.name,
    )


def too_many(caller: Caller) -> QuotaExceeded:
    """The refusal of one stream more than the caller may have."""
    return QuotaExceeded(
        f"key {caller.name!r} may have {caller.max_streams} streams at once; end one of them first",
        retry_after=STREAM_RETRY_SECONDS,
        subject=caller.name,
    )
