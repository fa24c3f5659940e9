"""Dashboards and alerts ask for metrics that exist, every metric is on one of them, and every alert has its runbook."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.helm import CHART, ROOT, VERSIONS, Helm, helm
from tests.support.metric_names import OUTSIDE, names_in, registered
from tools.dashboards.__main__ import BOARDS, write

OPERATIONS = ROOT / "docs" / "operations.md"
ALERT_TESTS = Path(__file__).with_name("alerts.test.yaml")


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def expressions() -> list[str]:
    return [query.expr for board in BOARDS for query in board.queries()] + [rule["expr"] for rule in rules()]


def anchors(markdown: str) -> set[str]:
    """The places that a link can name, as code forges make them of headings."""
    headings = re.findall(r"^#+ (.+)$", markdown, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_committed_dashboards_are_current(tmp_path: Path) -> None:
    write(tmp_path)
    made = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    committed = {path.name: path.read_text(encoding="utf-8") for path in (CHART / "dashboards").iterdir()}
    assert committed == made, "run: make format"


@pytest.mark.parametrize("expr", expressions())
def test_every_query_asks_for_metrics_that_exist(expr: str) -> None:
    known = OUTSIDE.union(*registered().values())
    assert names_in(expr) <= known
    assert names_in(expr) or "lighttts:" in expr


def test_every_metric_is_on_a_panel_or_in_an_alert() -> None:
    asked = set().union(*map(names_in, expressions()))
    assert not {family for family, series in registered().items() if not series & asked}
    assert asked >= OUTSIDE, "the list of outside metrics names one that nobody asks for"


def test_every_panel_says_why_it_is_there() -> None:
    for board in BOARDS:
        panels = [panel for row in board.rows for panel in row.panels]
        assert all(panel.why.endswith(".") for panel in panels)
        assert len({panel.title for panel in panels}) == len(panels)


def test_the_operator_s_page_names_panels_that_exist() -> None:
    page = OPERATIONS.read_text(encoding="utf-8")
    diagnose, alerts_text = page.partition("\n## Diagnose")[2].split("\n## ")[:2]
    cells = [line.split(" | ")[1] for line in diagnose.splitlines() if line.startswith("| ") and " / " in line]
    named = {name for cell in cells for name in cell.partition(" / ")[2].split(", ")}
    named.update(re.findall(r"(?<![*\w])\*([A-Z][^*]+)\*(?!\*)", re.sub(r"\s+", " ", alerts_text)))
    titles = {panel.title for board in BOARDS for row in board.rows for panel in row.panels}
    titles |= {board.title.removeprefix("light-tts / ") for board in BOARDS}
    assert len(named) > 15
    assert not named - titles - {title.split(" (")[0] for title in titles}


def test_every_alert_has_a_runbook_a_severity_and_a_test() -> None:
    tested = ALERT_TESTS.read_text(encoding="utf-8")
    known = anchors(OPERATIONS.read_text(encoding="utf-8"))
    for alert in alerts():
        path, _, anchor = alert["annotations"]["runbook"].partition("#")
        assert (ROOT / path, anchor) == (OPERATIONS, alert["alert"].lower())
        assert anchor in known, f"docs/operations.md lacks a section {alert['alert']}"
        assert alert["labels"]["severity"] in ("page", "ticket")
        assert re.search(rf"\b{alert['alert']}\b", tested)


@pytest.mark.system
def test_the_chart_installs_them() -> None:
    settings = (
        "metrics.podMonitor.enabled=true",
        'metrics.podMonitor.labels={"release":"prometheus"}',
        "metrics.prometheusRule.enabled=true",
        'metrics.prometheusRule.labels={"release":"prometheus"}',
    )
    objects = helm(VERSIONS[-1]).render("values.yaml", *settings)
    (rule,) = [item for item in objects if item["kind"] == "PrometheusRule"]
    assert [each for group in rule["spec"]["groups"] for each in group["rules"]] == rules()
    (monitor,) = [item for item in objects if item["kind"] == "PodMonitor"]
    assert {item["metadata"]["labels"]["release"] for item in (rule, monitor)} == {"prometheus"}
    wanted = monitor["spec"]["selector"]["matchLabels"]
    pods = [item["spec"]["template"] for item in objects if item["kind"] == "Deployment"]
    assert all(wanted.items() <= pod["metadata"]["labels"].items() for pod in pods)
    ports = [{port["name"] for port in pod["spec"]["containers"][0]["ports"]} for pod in pods]
    assert all(monitor["spec"]["podMetricsEndpoints"][0]["port"] in names for names in ports)
    boards = [item for item in objects if item["metadata"]["labels"].get("grafana_dashboard") == "1"]
    assert {json.loads(text)["uid"] for item in boards for text in item["data"].values()} == {b.uid for b in BOARDS}


@pytest.mark.system
def test_the_metrics_of_the_single_pod_are_those_of_a_gateway() -> None:
    """Alerts and panels select gateways by the label service."""
    objects = helm(VERSIONS[-1]).render("values-single-gpu.yaml", "metrics.podMonitor.enabled=true")
    (monitor,) = [item for item in objects if item["kind"] == "PodMonitor"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["relabelings"] == [{"targetLabel": "service", "replacement": "gateway"}]
    assert 'service="gateway"' in {str(rule.get("alert")): rule["expr"] for rule in rules()}["LightTtsCannotSpeak"]


@pytest.mark.system
@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian package prometheus)")
def test_alerts_fire_and_keep_quiet() -> None:
    for command in (["check", "rules", str(CHART / "files" / "alerts.yaml")], ["test", "rules", str(ALERT_TESTS)]):
        done = subprocess.run(["promtool", *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.system
def test_prometheus_reaches_the_metrics_of_a_single_pod_whose_port_is_closed(newest_helm: Helm) -> None:
    """The single pod has its metrics on the port of the HTTP API."""

    def sources(*settings: str) -> list[Any]:
        objects = newest_helm.render("values-single-gpu.yaml", *settings)
        (policy,) = [each for each in objects if each["kind"] == "NetworkPolicy"]
        return [rule.get("from") for rule in policy["spec"]["ingress"] if {"port": "http"} in rule["ports"]]

    applications: list[Any] = [{"podSelector": {"matchLabels": {"a": "b"}}}]
    prometheus: list[Any] = [{"namespaceSelector": {}}]
    closed = f"networkPolicy.gatewayFrom={json.dumps(applications)}"
    scraped = f"networkPolicy.metricsFrom={json.dumps(prometheus)}"
    assert sources() == sources(scraped) == [None], "open to all"
    (only_applications,) = sources(closed)
    assert sources(closed, scraped) == [only_applications, prometheus]
    assert sources(closed, scraped, "metrics.enabled=false") == [only_applications]
