"""Whether a service and all services behind it can serve: a named health service of its own.

A service's readiness concerns its own process, so that an outage does not take the services before it out of rotation:
they must stay to answer requests with a reason. Monitors need to know whether a request would succeed; the health
services named here report that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, runtime_checkable

import structlog

from services.common import metrics

log = structlog.get_logger(__name__)

GATEWAY_END_TO_END = "lighttts.v1.TextToSpeech/EndToEnd"
"""Health service name: SERVING while a gateway can have text spoken. Short outages do not change it."""
LLM_END_TO_END = "lighttts.v1.Llm/EndToEnd"
"""Health service name: SERVING while an llm worker serves and a decode worker behind it serves and answers."""
POLL_SECONDS = 0.25


@runtime_checkable
class EndToEndService(Protocol):
    """A service that needs other services for its requests."""

    name: str
    end_to_end: str
    """Health service name under which its end-to-end health is reported."""

    def unable(self) -> str:
        """Return why a request cannot be served to its end now, or an empty string if it can."""


async def follow(service: EndToEndService, report: Callable[[bool], Awaitable[None]]) -> None:
    """Call `report` with whether `service` is able, at the start and after each change, until it is cancelled."""
    before: str | None = None
    while True:
        reason = service.unable()
        if reason != before:
            before = reason
            if reason:
                log.warning("cannot serve end to end", reason=reason)
            else:
                log.info("serving end to end")
            metrics.END_TO_END.labels(service.name).set(not reason)
            await report(not reason)
        await asyncio.sleep(POLL_SECONDS)
