"""What the processes of a stack hold: memory, descriptors, threads, tasks, and slots of running work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

SLOTS = (
    "lighttts_gateway_sessions_active",
    "lighttts_encode_voices_in_work",
    "lighttts_llm_sequences_waiting",
    "lighttts_llm_sequences_running",
    "lighttts_llm_kv_blocks_used",
    "lighttts_decode_streams",
)
"""Gauges of running work; each is 0 without clients."""
TASKS = "lighttts_event_loop_tasks"
MEMORY_SLACK_MIB = 100.0
"""Memory may grow by this: allocators keep freed pages, and caches fill."""
COUNT_SLACK = 16
"""Descriptors, threads and tasks may grow by this: pools of connections and threads fill on use."""


@dataclass(frozen=True)
class Held:
    """What one process holds."""

    pid: int
    memory_mib: float
    descriptors: int
    threads: int
    tasks: int
    slots: int

    def excess(self, before: Held | None) -> list[str]:
        """Return what is held beyond the figures of the same process before; a restarted one has only its slots."""
        found = [f"{self.slots} slots"] if self.slots else []
        if before is None or before.pid != self.pid:
            return found
        if self.memory_mib > before.memory_mib + MEMORY_SLACK_MIB:
            found.append(f"{self.memory_mib - before.memory_mib:.0f} MiB more")
        for name in ("descriptors", "threads", "tasks"):
            more = getattr(self, name) - getattr(before, name)
            if more > COUNT_SLACK:
                found.append(f"{more} more {name}")
        return found


async def held_by(pid: int, metrics_url: str) -> Held:
    """Measure one process. Raises httpx.HTTPError and psutil.Error if it is not running."""
    async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
        values = _gauges((await client.get(metrics_url)).text)
    process = psutil.Process(pid)
    with process.oneshot():
        return Held(
            pid,
            process.memory_info().rss / 2**20,
            process.num_fds(),
            process.num_threads(),
            int(values.get(TASKS, 0)),
            int(sum(values.get(name, 0) for name in SLOTS)),
        )


def _gauges(text: str) -> Mapping[str, float]:
    values: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            values[sample.name] = values.get(sample.name, 0) + sample.value
    return values
