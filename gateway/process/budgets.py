"""The memory that a gateway's caches and open requests may fill, compared with what its container has."""

from __future__ import annotations

import structlog

from gateway.settings import GatewaySettings
from services.common.engine.memory import check_caches, host_memory, resident_memory

log = structlog.get_logger(__name__)

DEFAULT_BODY_BUDGET = 256 * 2**20
COPIES = 3
"""Bytes held for each byte of a request while it is parsed and decoded (docs/benchmarks.md, section Large requests)."""


def body_budget(settings: GatewaySettings) -> int:
    """Return the most bytes of all open requests: as set, or what fits in addition to the caches.

    Raises StartError if the caches and the requests would not fit into the memory.
    """
    results = settings.result_cache_bytes if settings.result_cache == "memory" else 0
    caches = {"voice_cache_bytes": settings.voice_cache_bytes, "result_cache_bytes": results}
    if settings.body_budget_bytes:
        check_caches(caches | {"body_budget_bytes": COPIES * settings.body_budget_bytes})
        return settings.body_budget_bytes
    recording = settings.max_prompt_bytes * 4 // 3  # in base64
    least = min(DEFAULT_BODY_BUDGET, 2 * recording)  # one key may use half
    check_caches(caches | {"max_prompt_bytes": COPIES * least})
    room = host_memory().total - resident_memory() - sum(caches.values())
    budget = max(least, min(DEFAULT_BODY_BUDGET, room // COPIES))
    if budget < DEFAULT_BODY_BUDGET:
        log.info("the memory limits open requests", body_budget_bytes=budget)
    return budget
