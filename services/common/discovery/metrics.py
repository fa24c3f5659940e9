"""The metrics of all kinds of discovery."""

from __future__ import annotations

from prometheus_client import Counter

FAILURES = Counter(
    "lighttts_discovery_failures_total", "Failed lookups; the last known addresses stayed in use.", ["target"]
)
