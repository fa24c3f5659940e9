"""Autoscalers go by metrics that the services have."""

from __future__ import annotations

import importlib
import re

import yaml
from prometheus_client import REGISTRY

from tests.support.helm import CHART


def registered() -> set[str]:
    """Names of the series that decode and llm workers and the gateway expose."""
    for module in ("services.decode.server", "services.llm.server", "gateway.metrics"):
        importlib.import_module(module)
    return {family.name for family in REGISTRY.collect()}


def test_every_target_is_a_metric_of_its_service() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    for service in ("encode", "llm", "decode", "gateway"):
        metrics = values[service]["autoscaling"]["targets"].get("metrics", {})
        assert metrics.keys() <= registered()
        assert all(name.startswith(f"lighttts_{service}_") for name in metrics)


def test_prometheus_adapter_offers_every_target() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    targets = {
        name
        for service in ("encode", "llm", "decode", "gateway")
        for name in values[service]["autoscaling"]["targets"].get("metrics", {})
    }
    rules = yaml.safe_load((CHART / "files" / "prometheus-adapter.yaml").read_text(encoding="utf-8"))
    query = rules["rules"]["custom"][0]["seriesQuery"]
    pattern = re.search(r'__name__=~"([^"]+)"', query)
    assert pattern is not None
    offered = {name for name in registered() if re.fullmatch(pattern[1], name)}
    assert targets <= offered
    assert len(offered) == pattern[1].count("|") + 1, "the rule names a metric that no service has"
