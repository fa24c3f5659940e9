"""What a pool measures. The series of a worker exist as long as the pool knows it."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

WORKERS_KNOWN = Gauge("lighttts_pool_workers_known", "Workers that discovery lists.", ["pool"])
REFUSALS = Counter("lighttts_pool_refusals_total", "Leases refused because no worker was healthy in time.", ["pool"])
HEALTHY = Gauge("lighttts_pool_healthy", "1 while a worker may be given leases.", ["pool", "worker"])
LEASES_ACTIVE = Gauge("lighttts_pool_leases_active", "Leases held now.", ["pool", "worker"])
LEASES = Counter("lighttts_pool_leases_total", "Leases given.", ["pool", "worker"])
FAILURES = Counter("lighttts_pool_failures_total", "Failures of a worker, by reason.", ["pool", "worker", "reason"])

_PER_WORKER = (HEALTHY, LEASES_ACTIVE, LEASES, FAILURES)


class WorkerSeries:
    """The series of one worker. After `remove`, updates go nowhere instead of bringing them back."""

    def __init__(self, pool: str, worker: str) -> None:
        self._labels = {"pool": pool, "worker": worker}
        self._removed = False
        self.healthy = HEALTHY.labels(**self._labels)
        self.active = LEASES_ACTIVE.labels(**self._labels)
        self.leases = LEASES.labels(**self._labels)

    def failed(self, reason: str) -> None:
        if not self._removed:
            FAILURES.labels(**self._labels, reason=reason).inc()

    def remove(self) -> None:
        self._removed = True
        for metric in _PER_WORKER:
            metric.remove_by_labels(self._labels)
