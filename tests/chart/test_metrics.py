"""Autoscalers go by metrics that somebody offers them; that the services have them, test_prometheus sees."""

from __future__ import annotations

import pytest

from tests.support.chart import adapter_query, scaling_metrics
from tests.support.helm import VERSIONS, helm
from tests.support.metric_names import names_in, registered

TARGETS = sorted(set().union(*scaling_metrics().values()))


def test_each_service_is_scaled_by_metrics_of_its_own() -> None:
    for service, names in scaling_metrics().items():
        assert all(name.startswith(f"lighttts_{service}_") for name in names)


@pytest.mark.parametrize("metric", TARGETS)
def test_prometheus_adapter_offers_every_target(metric: str) -> None:
    query = adapter_query(metric)
    assert names_in(query) <= set().union(*registered().values())
    assert "<<" not in query


@pytest.mark.system
def test_keda_asks_for_the_same_metrics_as_prometheus_adapter() -> None:
    keda = 'decode.autoscaling.keda={"enabled":true,"serverAddress":"http://prometheus:9090"}'
    (scaler,) = [item for item in helm(VERSIONS[-1]).render("values.yaml", keda) if item["kind"] == "ScaledObject"]
    asked = [names_in(trigger["metadata"]["query"]) for trigger in scaler["spec"]["triggers"]]
    wanted = [names_in(adapter_query(metric)) for metric in sorted(scaling_metrics()["decode"])]
    assert asked == wanted
