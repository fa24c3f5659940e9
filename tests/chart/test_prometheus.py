"""A real Prometheus scrapes the rendered pods, while one more comes, one is drained and one is killed.

What dashboards, alerts and autoscalers ask then finds something, or it is said why not.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from cli.local.ports import free_ports
from tests.chart.test_observability import rules
from tests.chart.test_runs import LONG, known_to_llm, next_in_turn, say
from tests.support.certificates import Authority
from tests.support.chart import adapter_query, scaling_metrics
from tests.support.cluster import Cluster
from tests.support.helm import NAMESPACE, VERSIONS, helm
from tests.support.metric_names import OUTSIDE, names_in
from tests.support.prometheus import Prometheus, scraping
from tools.dashboards.__main__ import BOARDS

pytestmark = [
    pytest.mark.system,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs prometheus (Debian package)"),
]

SETTINGS = (
    "metrics.podMonitor.enabled=true",
    "metrics.prometheusRule.enabled=true",
    "tls.enabled=true",
    'tls.existingSecret="certificates"',
    "loadGenerator.enabled=true",
    "loadGenerator.rate=0.5",
    "llm.settings.lead_seconds=2",
    "decode.settings.drain_notice_seconds=0",
)
RATE_WINDOW = "30s"
EMPTY_WHEN_ALL_IS_WELL = {
    "lighttts_discovery_failures_total": "every lookup succeeded",
    "lighttts_gateway_cancellations_total": "nobody went away",
    "lighttts_gateway_errors_total": "every request was good",
    "lighttts_gateway_results_total": "the result cache is off by default",
    "lighttts_llm_cancellations_total": "nobody went away",
    "lighttts_pool_failures_total": "what is told of a pod goes when the pod goes",
    "lighttts_pool_refusals_total": "there was a worker for everybody",
    'code="RESOURCE_EXHAUSTED"': "there was room for everybody",
}
"""Series with labels do not exist until something happens; what asks for one of these may find nothing."""


@dataclass(frozen=True)
class Watched:
    """A release in small, and the Prometheus that watches it."""

    cluster: Cluster
    prometheus: Prometheus
    alarms: list[object]
    """Alerts that fired before anything went wrong."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watched(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
    """Speech, then a pod more, a drained one and a killed one, then the load generator until rates are seen."""
    folder = tmp_path_factory.mktemp("watched")
    Authority(folder / "authority").issue(folder / "certificates")
    objects = helm(VERSIONS[-1]).render("values-cpu.yaml", *SETTINGS)
    load = next(item for item in objects if item["kind"] == "Deployment" and item["metadata"]["name"].endswith("-load"))
    load["spec"]["replicas"] = 0
    async with (
        Cluster(objects, folder / "pods", {"certificates": folder / "certificates"}) as cluster,
        scraping(cluster, free_ports(1).http, folder) as prometheus,
    ):
        await prometheus.until(f"sum(lighttts_ready) == {len(cluster.pods)}")
        await say(cluster, LONG)
        alarms: list[object] = [*await prometheus.series('ALERTS{alertstate="firing"}')]
        await disturb(cluster)
        await cluster.scale("load")
        await prometheus.until(f"rate(lighttts_gateway_time_to_first_audio_seconds_count[{RATE_WINDOW}]) > 0")
        await prometheus.until(f"rate(lighttts_decode_playback_lead_seconds_count[{RATE_WINDOW}]) > 0")
        await prometheus.until("lighttts:underrun:ratio6h")
        yield Watched(cluster, prometheus, alarms)


async def disturb(cluster: Cluster) -> None:
    """A decode pod more, one that is drained while it speaks, and one that dies while it speaks."""
    added = await cluster.scale("decode")
    async with asyncio.timeout(10):
        while not await known_to_llm(cluster, f"{added.address}:{added.port('grpc')}"):  # noqa: ASYNC110
            await asyncio.sleep(0.1)  # its metrics say so, and nothing rings
    leaving = await next_in_turn(cluster)
    ending: list[asyncio.Task[int]] = []
    speech, _ = await say(cluster, LONG, lambda: ending.append(asyncio.create_task(cluster.delete(leaving))))
    assert await ending[0] == 0, leaving.log_tail()
    assert any("moved" in warning for warning in speech.warnings)
    victim = await next_in_turn(cluster)
    speech, _ = await say(cluster, LONG, victim.kill)
    assert any("moved" in warning for warning in speech.warnings)
    await cluster.until(lambda: victim.restarts == 1 and victim.ready, victim)


def concrete(expr: str) -> str:
    """A dashboard's query as Grafana sends it."""
    return expr.replace("$__rate_interval", RATE_WINDOW).replace("$namespace", NAMESPACE)


def without_condition(expr: str) -> str:
    """An alert's expression with 0 or 1 in the place of its conditions, so that it finds what it looks at."""
    return re.sub(r" (>=|<=|==|>|<) (?!bool )", r" \1 bool ", expr)


def excused(expr: str) -> bool:
    return bool(names_in(expr) & OUTSIDE) or any(reason in expr for reason in EMPTY_WHEN_ALL_IS_WELL)


async def test_nothing_alarmed_while_all_was_well(watched: Watched) -> None:
    assert not watched.alarms


async def test_every_query_of_the_dashboards_finds_something(watched: Watched) -> None:
    queries = {concrete(query.expr) for board in BOARDS for query in board.queries()}
    empty = {expr for expr in queries if not await watched.prometheus.series(expr)}
    assert not {expr for expr in empty if not excused(expr)}


async def test_every_alert_looks_at_something(watched: Watched) -> None:
    expressions = {rule["expr"] for rule in rules()}
    for expr in expressions:
        await watched.prometheus.series(expr)
    empty = {expr for expr in map(without_condition, expressions) if not await watched.prometheus.series(expr)}
    assert not {expr for expr in empty if not excused(expr)}


async def test_autoscalers_find_every_pod_of_what_they_scale(watched: Watched) -> None:
    for service, metrics in scaling_metrics().items():
        pods = {pod.name for pod in watched.cluster.running(service)}
        for metric in metrics:
            found = {series["metric"]["pod"] for series in await watched.prometheus.series(adapter_query(metric))}
            assert found >= pods, metric


async def test_keda_sees_what_the_horizontal_autoscaler_sees(watched: Watched) -> None:
    keda = 'decode.autoscaling.keda={"enabled":true,"serverAddress":"http://prometheus:9090"}'
    scaler = next(item for item in helm(VERSIONS[-1]).render("values-cpu.yaml", keda) if item["kind"] == "ScaledObject")
    now = time.time()
    for metric, trigger in zip(sorted(scaling_metrics()["decode"]), scaler["spec"]["triggers"], strict=True):
        (whole,) = await watched.prometheus.series(trigger["metadata"]["query"], now)
        pods = await watched.prometheus.series(adapter_query(metric), now)
        assert float(whole["value"][1]) == pytest.approx(sum(float(pod["value"][1]) for pod in pods)), metric


async def test_the_load_generator_is_heard(watched: Watched) -> None:
    (load,) = watched.cluster.running("load")
    assert load.restarts == 0, load.log_tail()
    await watched.prometheus.until("sum(increase(lighttts_gateway_time_to_first_audio_seconds_count[1m])) > 2")
