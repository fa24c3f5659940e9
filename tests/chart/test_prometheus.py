"""A real Prometheus scrapes a running stack: what dashboards and alerts ask finds something, or it is said why not."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from cli.client import speak
from cli.dashboards.__main__ import BOARDS
from cli.ports import free_ports
from cli.say import make_config
from cli.stack import Stack, StackConfig
from tests.chart.test_observability import rules
from tests.support.metric_names import OUTSIDE, names_in
from tests.support.prometheus import NAMESPACE, Prometheus, scraping

pytestmark = [
    pytest.mark.system,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs prometheus (Debian package)"),
]

RATE_WINDOW = "30s"
EMPTY_WHEN_ALL_IS_WELL = {
    "lighttts_discovery_failures_total": "every lookup succeeded",
    "lighttts_gateway_cancellations_total": "nobody went away",
    "lighttts_gateway_errors_total": "every request was good",
    "lighttts_gateway_llm_moves_total": "no llm worker died",
    "lighttts_gateway_results_total": "the result cache is off by default",
    "lighttts_llm_cancellations_total": "nobody went away",
    "lighttts_llm_decode_losses_total": "no decode worker died",
    "lighttts_llm_decode_moves_total": "no decode worker died",
    "lighttts_pool_failures_total": "no worker failed",
    "lighttts_pool_refusals_total": "there was a worker for everybody",
    'code="RESOURCE_EXHAUSTED"': "there was room for everybody",
}
"""Series with labels do not exist until something happens; what asks for one of these may find nothing."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prometheus(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Prometheus]:
    """After some speech, with rates to be seen."""
    directory = tmp_path_factory.mktemp("prometheus")
    port = free_ports(1).http
    async with Stack(StackConfig(log_dir=directory / "logs")) as stack, scraping(stack, port, directory) as server:
        await server.until(f"sum(lighttts_ready) == {len(list(stack.workers()))}")
        for seed in range(2):
            config = make_config(None, None, None, seed, 1.0)
            await speak(stack.gateway.address, config, "We do not tell.", lambda chunk: None)
        await server.until(f"rate(lighttts_gateway_time_to_first_audio_seconds_count[{RATE_WINDOW}]) > 0")
        await server.until("lighttts:underrun:ratio6h")
        yield server


def concrete(expr: str) -> str:
    """A dashboard's query as Grafana sends it."""
    return expr.replace("$__rate_interval", RATE_WINDOW).replace("$namespace", NAMESPACE)


def without_condition(expr: str) -> str:
    """The values that an alert looks at, whether or not they are alarming."""
    return re.sub(r" (>=?|<|==) (bool )?[\d.*+ ]+(?=$|\)| and)", "", expr)


def excused(expr: str) -> bool:
    return bool(names_in(expr) & OUTSIDE) or any(reason in expr for reason in EMPTY_WHEN_ALL_IS_WELL)


async def test_every_query_of_the_dashboards_finds_something(prometheus: Prometheus) -> None:
    queries = {concrete(query.expr) for board in BOARDS for query in board.queries()}
    empty = {expr for expr in queries if not await prometheus.series(expr)}
    assert not {expr for expr in empty if not excused(expr)}


async def test_every_alert_looks_at_something(prometheus: Prometheus) -> None:
    expressions = {rule["expr"] for rule in rules()}
    for expr in expressions:
        await prometheus.series(expr)
    empty = {expr for expr in map(without_condition, expressions) if not await prometheus.series(expr)}
    assert not {expr for expr in empty if not excused(expr)}


async def test_nothing_alarms_while_all_is_well(prometheus: Prometheus) -> None:
    assert not await prometheus.series('ALERTS{alertstate="firing"}')
