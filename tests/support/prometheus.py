"""A real Prometheus that scrapes a local stack as the chart's PodMonitor has pods scraped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import yaml

from cli.ports import HOST
from cli.stack import Stack
from tests.support.helm import CHART

INTERVAL = "1s"
NAMESPACE = "speech"


class Prometheus:
    """A running server, asked over HTTP."""

    def __init__(self, port: int) -> None:
        self._client = httpx.AsyncClient(base_url=f"http://{HOST}:{port}/api/v1", timeout=10)

    async def series(self, expr: str) -> list[dict[str, Any]]:
        """What an instant query finds. Raises AssertionError when Prometheus cannot read it."""
        answer = (await self._client.get("/query", params={"query": expr})).json()
        assert answer["status"] == "success", f"{expr}: {answer.get('error')}"
        return list(answer["data"]["result"])

    async def until(self, expr: str) -> None:
        """Waits until a query finds something; as long as the server does not answer, it has found nothing."""
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if await self.series(expr):
                        return
                await asyncio.sleep(0.1)

    async def close(self) -> None:
        await self._client.aclose()


@contextlib.asynccontextmanager
async def scraping(stack: Stack, port: int, directory: Path) -> AsyncIterator[Prometheus]:
    """Prometheus on `port` with the chart's rules, scraping every process of the stack."""
    config = directory / "prometheus.yaml"
    config.write_text(yaml.safe_dump(_config(stack)), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={HOST}:{port}",
        "--log.level=warn",
    )
    prometheus = Prometheus(port)
    try:
        await prometheus.until("vector(1)")
        yield prometheus
    finally:
        await prometheus.close()
        process.terminate()
        await process.wait()


def _config(stack: Stack) -> dict[str, Any]:
    targets = [
        {
            "targets": [f"{HOST}:{worker.spec.metrics_port}"],
            "labels": {"namespace": NAMESPACE, "pod": worker.spec.name, "service": worker.spec.name.partition("-")[0]},
        }
        for worker in stack.workers()
    ]
    return {
        "global": {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL},
        "rule_files": [str(CHART / "files" / "alerts.yaml")],
        "scrape_configs": [{"job_name": "light-tts", "static_configs": targets}],
    }
