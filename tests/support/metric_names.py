"""Known metrics: those that the services register, and external ones that dashboards may query."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric

from services.decode.engine.engine import DecodeEngine
from services.decode.engine.events import EngineStats
from services.decode.metrics import EngineCollector
from tests.support.helm import ROOT

OUTSIDE = {
    # NVIDIA's DCGM exporter, with its pod labels on
    "DCGM_FI_DEV_GPU_UTIL",
    "DCGM_FI_DEV_FB_USED",
    "DCGM_FI_DEV_FB_FREE",
    "DCGM_FI_DEV_POWER_USAGE",
    "DCGM_FI_DEV_GPU_TEMP",
    "DCGM_FI_DEV_SM_CLOCK",
    "DCGM_FI_DEV_XID_ERRORS",
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
    # kube-state-metrics
    "kube_deployment_spec_replicas",
    "kube_deployment_status_replicas_available",
    "kube_horizontalpodautoscaler_spec_max_replicas",
    "kube_horizontalpodautoscaler_status_desired_replicas",
    "kube_pod_container_status_restarts_total",
    "kube_pod_container_status_waiting_reason",
    # cert-manager
    "certmanager_certificate_expiration_timestamp_seconds",
}

_NAME = re.compile(r"\b(?:lighttts|DCGM|kube|certmanager)_\w+\b")
_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


def registered() -> dict[str, set[str]]:
    """Return every family that a service registers, with the names of its series."""
    families = [*_of_modules(), *_of_the_decode_engine()]
    return {family.name: {family.name + suffix for suffix in _SUFFIXES[family.type]} for family in families}


def names_in(expr: str) -> set[str]:
    """Return the metrics that an expression queries; names in label matchers do not count."""
    return set(_NAME.findall(re.sub(r'"[^"]*"', '""', expr)))


def _of_modules() -> Iterator[Metric]:
    for folder in ("services", "gateway"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "prometheus_client import" in path.read_text(encoding="utf-8"):
                module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
                for value in vars(module).values():
                    if isinstance(value, MetricWrapperBase):
                        yield from value.describe()


def _of_the_decode_engine() -> Iterator[Metric]:
    """Yield the metrics that the decode worker computes at a scrape."""
    engine = SimpleNamespace(stats=EngineStats, steps=0)
    collector = EngineCollector(cast(DecodeEngine, engine))
    try:
        yield from collector.collect()
    finally:
        collector.close()
