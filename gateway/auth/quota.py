"""Limits of each caller: streams at once, and requests per minute."""

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
"""Retry hint for a refused stream; when another stream ends cannot be predicted."""


class Quotas(Protocol):
    """Each method raises QuotaExceeded, with the time to wait."""

    async def check(self, caller: Caller) -> None:
        """Refuse a caller whose next stream would be refused now. Counts nothing."""

    async def spend(self, caller: Caller) -> None:
        """Count one request."""

    def stream(self, caller: Caller, *, counted: bool = False) -> contextlib.AbstractAsyncContextManager[None]:
        """Count one stream while the block runs, and one request unless it has been `counted`."""


@dataclass
class _Bucket:
    tokens: float
    at: float


class LocalQuotas:
    """Quotas of this process alone: with n gateways a caller has n times its limits."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}  # one per key
        self._streams: Counter[str] = Counter()

    async def check(self, caller: Caller) -> None:
        if caller.max_streams is not None and self._streams[caller.name] >= caller.max_streams:
            raise too_many(caller)
        self._bucket(caller)

    async def spend(self, caller: Caller) -> None:
        if (bucket := self._bucket(caller)) is not None:
            bucket.tokens -= 1

    def _bucket(self, caller: Caller) -> _Bucket | None:
        """Return the caller's bucket, filled up to now; None without a limit. Raises QuotaExceeded if it is empty."""
        if caller.requests_per_minute is None:
            return None
        now, rate = self._clock(), caller.requests_per_minute / 60
        bucket = self._buckets.setdefault(caller.name, _Bucket(caller.burst, now))
        bucket.tokens = min(caller.burst, bucket.tokens + (now - bucket.at) * rate)
        bucket.at = now
        if bucket.tokens < 1:
            raise too_fast(caller, (1 - bucket.tokens) / rate)
        return bucket

    @contextlib.asynccontextmanager
    async def stream(self, caller: Caller, *, counted: bool = False) -> AsyncIterator[None]:
        if caller.max_streams is not None and self._streams[caller.name] >= caller.max_streams:
            raise too_many(caller)
        self._streams[caller.name] += 1
        try:
            if not counted:
                await self.spend(caller)
            yield
        finally:
            self._streams[caller.name] -= 1
            if not self._streams[caller.name]:
                del self._streams[caller.name]


def too_fast(caller: Caller, retry_after: float) -> QuotaExceeded:
    """Return the error for a request that arrived `retry_after` seconds too early."""
    return QuotaExceeded(
        f"key {caller.name!r} may make {caller.requests_per_minute:g} requests per minute;"
        f" try again in {math.ceil(retry_after)} s",
        retry_after=retry_after,
        subject=caller.name,
    )


def too_many(caller: Caller) -> QuotaExceeded:
    """Return the error for a stream beyond the caller's limit."""
    return QuotaExceeded(
        f"key {caller.name!r} may have {caller.max_streams} streams at once; end one of them first",
        retry_after=STREAM_RETRY_SECONDS,
        subject=caller.name,
    )
