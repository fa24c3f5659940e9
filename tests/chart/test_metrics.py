"""Autoscalers go by metrics that somebody offers them; that the services have them, test_runs sees."""

from __future__ import annotations

import re

import yaml

from tests.support.chart import scaling_metrics
from tests.support.helm import CHART


def test_each_service_is_scaled_by_metrics_of_its_own() -> None:
    for service, names in scaling_metrics().items():
        assert all(name.startswith(f"lighttts_{service}_") for name in names)


def test_prometheus_adapter_offers_every_target() -> None:
    rules = yaml.safe_load((CHART / "files" / "prometheus-adapter.yaml").read_text(encoding="utf-8"))
    pattern = re.search(r'__name__=~"([^"]+)"', rules["rules"]["custom"][0]["seriesQuery"])
    assert pattern is not None
    for name in set().union(*scaling_metrics().values()):
        assert re.fullmatch(pattern[1], name)
