"""Redis, for state that gateways share. The library is optional: only a gateway with LIGHTTTS_REDIS_URL needs it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import structlog

from services.common.errors import Unavailable
from services.common.start_error import StartError

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = structlog.get_logger(__name__)

TIMEOUT_SECONDS = 2.0
"""Longest wait for a Redis command; the listener waits as long."""


def connect(url: str) -> Redis:
    """Create a client; it connects at its first command. Raises StartError: wrong address, missing library."""
    try:
        from redis.asyncio import Redis
    except ImportError as error:
        raise StartError(
            "LIGHTTTS_REDIS_URL is set, but redis is not installed: pip install 'light-tts[redis]'"
        ) from error
    try:
        return Redis.from_url(url, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS)
    except ValueError as error:
        raise StartError(f"LIGHTTTS_REDIS_URL: {error}") from error


@contextlib.contextmanager
def reached(what: str) -> Iterator[None]:
    """Convert errors of Redis to Unavailable. `what` begins the message, for example "results cannot be read"."""
    from redis.exceptions import RedisError

    try:
        yield
    except (RedisError, OSError) as error:
        log.error("redis cannot be used", reason=str(error))
        raise Unavailable(f"{what} now; try again shortly", retry_after=1.0) from error
