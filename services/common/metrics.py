"""Metrics of every service. Names have the prefix `lighttts_` and the base unit (Prometheus conventions)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, generate_latest, start_http_server
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

RPC_STARTED = Counter("lighttts_rpc_started_total", "Calls received.", ["method"])
RPC_FINISHED = Counter("lighttts_rpc_finished_total", "Calls that ended, by gRPC status code.", ["method", "code"])
RPC_ACTIVE = Gauge("lighttts_rpc_active", "Calls in progress.", ["method"])
RPC_SECONDS = Histogram(
    "lighttts_rpc_duration_seconds",
    "Duration of calls; streams last as long as their audio.",
    ["method"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
READY = Gauge("lighttts_ready", "1 while the service reports SERVING.")
END_TO_END = Gauge(
    "lighttts_end_to_end",
    "1 while the service and all services behind it can serve a request; at the gateway 0 only after the grace.",
    ["service"],
)
TASKS = Gauge("lighttts_event_loop_tasks", "Tasks of the service's event loop.")

LATENCY_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10)
"""Histogram buckets, in seconds, for first-audio latencies and their parts."""


class _Scrapes(Collector):
    """Counts the scrapes; it exports nothing."""

    def __init__(self) -> None:
        self.count = 0
        REGISTRY.register(self)

    def describe(self) -> Iterator[Metric]:
        """Describe nothing in advance, so that registering does not count as a scrape."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        self.count += 1
        return iter(())


SCRAPES = _Scrapes()


async def until_scraped(seconds: float, poll_seconds: float = 0.25) -> None:
    """Wait for the next scrape, at most `seconds`; do not wait in a process that was never scraped.

    A process that ends because of a failure calls this, since a counter that is not scraped again raises no alert.
    """
    before = SCRAPES.count
    for _ in range(int(seconds / poll_seconds) if before else 0):
        scraped = SCRAPES.count != before
        await asyncio.sleep(poll_seconds)  # also after the scrape, whose answer is sent after it is counted
        if scraped:
            return


def serve_metrics(host: str, port: int) -> None:
    """Serve /metrics from a daemon thread; port 0 disables it. Raises OSError when the port is in use."""
    if port:
        start_http_server(port, addr=host.strip("[]"))  # gRPC needs brackets around IPv6 addresses, sockets refuse them


def watch_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Export the number of the loop's tasks at scrape time."""
    TASKS.set_function(lambda: len(asyncio.all_tasks(loop)))


def exposition() -> bytes:
    """Return all metrics in Prometheus's text format."""
    return generate_latest()
