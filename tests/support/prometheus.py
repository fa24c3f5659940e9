"""A real Prometheus that scrapes the pods of a small cluster by the chart's PodMonitor.

The PodMonitor's selector, port, path and relabelings become a scrape configuration, as the Prometheus operator makes
one; the pods come from a file that is rewritten whenever they change. The rules are those of the PrometheusRule.
Both are looked at every second instead of every 15 or 30, so that tests need not wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import yaml

from cli.local.ports import HOST
from tests.support.cluster import Cluster
from tests.support.helm import NAMESPACE

INTERVAL = "1s"


class Prometheus:
    """A running server, queried over HTTP."""

    def __init__(self, port: int) -> None:
        self._client = httpx.AsyncClient(base_url=f"http://{HOST}:{port}", timeout=10)

    async def series(self, expr: str, at: float | None = None) -> list[dict[str, Any]]:
        """Return the result of an instant query, `at` a Unix time or now. Raises AssertionError if it is invalid."""
        when = {} if at is None else {"time": at}
        answer = (await self._client.get("/api/v1/query", params={"query": expr, **when})).json()
        assert answer["status"] == "success", f"{expr}: {answer.get('error')}"
        return list(answer["data"]["result"])

    async def until(self, expr: str) -> None:
        """Wait until a query has a result."""
        async with asyncio.timeout(120):
            while True:
                if await self.series(expr):
                    return
                await asyncio.sleep(0.1)

    async def until_ready(self) -> None:
        async with asyncio.timeout(120):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await self._client.get("/-/ready")).is_success:
                        return
                await asyncio.sleep(0.1)

    async def close(self) -> None:
        await self._client.aclose()


@contextlib.asynccontextmanager
async def scraping(cluster: Cluster, port: int, directory: Path) -> AsyncIterator[Prometheus]:
    """Prometheus on `port`, told what to scrape and what to watch by the objects of the cluster's release."""
    targets = directory / "targets.json"
    config = directory / "prometheus.yaml"
    config.write_text(yaml.safe_dump(_config(cluster, targets)), encoding="utf-8")
    (rule,) = (item for item in cluster.objects if item["kind"] == "PrometheusRule")
    groups = [{**group, "interval": INTERVAL} for group in rule["spec"]["groups"]]
    (directory / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}), encoding="utf-8")
    telling = asyncio.create_task(_tell(cluster, targets))
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={HOST}:{port}",
        "--log.level=warn",
    )
    prometheus = Prometheus(port)
    try:
        await prometheus.until_ready()
        yield prometheus
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
        await prometheus.close()
        process.terminate()
        await process.wait()


def _monitor(cluster: Cluster) -> dict[str, Any]:
    (monitor,) = (item for item in cluster.objects if item["kind"] == "PodMonitor")
    return dict(monitor["spec"])


def _config(cluster: Cluster, targets: Path) -> dict[str, Any]:
    (endpoint,) = _monitor(cluster)["podMetricsEndpoints"]
    relabelings = [{_snake(key): value for key, value in entry.items()} for entry in endpoint["relabelings"]]
    scrape = {
        "job_name": "light-tts",
        "metrics_path": endpoint["path"],
        "file_sd_configs": [{"files": [str(targets)], "refresh_interval": INTERVAL}],
        "relabel_configs": relabelings,
    }
    return {
        "global": {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL},
        "rule_files": [str(targets.with_name("rules.yaml"))],
        "scrape_configs": [scrape],
    }


def _snake(name: str) -> str:
    return re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", name)


async def _tell(cluster: Cluster, targets: Path) -> None:
    """Keep the file of targets equal to the current pods."""
    spec = _monitor(cluster)
    wanted, port = spec["selector"]["matchLabels"].items(), spec["podMetricsEndpoints"][0]["port"]
    known = None
    while True:
        found = [
            {
                "targets": [f"{pod.address}:{entry['containerPort']}"],
                "labels": {
                    "namespace": NAMESPACE,
                    "pod": pod.name,
                    "container": pod.container["name"],
                    **{f"__meta_kubernetes_pod_label_{re.sub(r'[^a-z]', '_', k)}": v for k, v in pod.labels.items()},
                },
            }
            for pod in cluster.pods
            if wanted <= pod.labels.items()
            for entry in pod.container.get("ports", [])
            if entry["name"] == port
        ]
        if found != known:
            scratch = targets.with_suffix(".new")
            scratch.write_text(json.dumps(found), encoding="utf-8")
            scratch.replace(targets)
            known = found
        await asyncio.sleep(0.2)
