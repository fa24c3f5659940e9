"""What every kind of discovery measures."""

from __future__ import annotations

from prometheus_client import Counter

FAILURES = Counter(
    "lighttts_discovery_failures_total", "Lookups that failed; the last known addresses stood.", ["target"]
)
