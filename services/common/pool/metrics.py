"""Metrics of a pool. The series of a worker exist as long as the worker is in the pool."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

WORKERS_KNOWN = Gauge("lighttts_pool_workers_known", "Workers listed by discovery.", ["pool"])
REFUSALS = Counter("lighttts_pool_refusals_total", "Leases refused because no worker was healthy in time.", ["pool"])
HEALTHY = Gauge("lighttts_pool_healthy", "1 while the worker can be leased.", ["pool", "worker"])
LEASES_ACTIVE = Gauge("lighttts_pool_leases_active", "Leases in use.", ["pool", "worker"])
LEASES = Counter("lighttts_pool_leases_total", "Leases given.", ["pool", "worker"])
FAILURES = Counter("lighttts_pool_failures_total", "Failures of a worker, by reason.", ["pool", "worker", "reason"])

_PER_WORKER = (HEALTHY, LEASES_ACTIVE, LEASES)


class WorkerSeries:
    """The series of one worker. After `remove`, updates have no effect and do not create the series again."""

    def __init__(self, pool: str, worker: str) -> None:
        self._labels = {"pool": pool, "worker": worker}
        self._removed = False
        self._reasons: set[str] = set()
        self.healthy = HEALTHY.labels(**self._labels)
        self.active = LEASES_ACTIVE.labels(**self._labels)
        self.leases = LEASES.labels(**self._labels)

    def failed(self, reason: str) -> None:
        if not self._removed:
            self._reasons.add(reason)
            FAILURES.labels(**self._labels, reason=reason).inc()

    def remove(self) -> None:
        self._removed = True
        own = tuple(self._labels.values())
        for metric in _PER_WORKER:
            metric.remove(*own)
        for reason in self._reasons:
            FAILURES.remove(*own, reason)
