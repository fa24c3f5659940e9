"""The whole system as processes on loopback, in stacks that the tests share, and figures shown at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from cli.local.process import WorkerEvent
from cli.local.stack import Stack, StackConfig
from tests.support.figures import Figure
from tests.support.mini_stack import MiniStack
from tests.support.recogniser import SENTENCES
from tests.support.spoken import LEAD_SECONDS


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """One encode, one llm, two decode workers and a gateway on the embedded voice; what dies stays dead.

    Speech is generated at most LEAD_SECONDS ahead of its audio, so that tests can count on it.
    """
    voices = tmp_path_factory.mktemp("voices")
    config = StackConfig(
        decode_workers=2,
        log_dir=tmp_path_factory.mktemp("stack"),
        flags={"llm": ("--lead-seconds", str(LEAD_SECONDS)), "gateway": ("--voices-dir", str(voices))},
        restart_dead=False,
    )
    async with Stack(config) as stack:
        yield stack


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def mini(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[MiniStack]:
    """One stack on random weights in the official layout; its GPUs do not exist, so the CPU replaces them."""
    config = StackConfig(
        model_dir=Path(__file__).parents[1] / "data" / "cosyvoice2-mini",
        decode_workers=2,
        devices=("cuda:90", "cuda:91"),
        log_dir=tmp_path_factory.mktemp("mini"),
        restart_dead=False,
    )
    events: list[WorkerEvent] = []
    async with Stack(config, events.append) as stack:
        yield MiniStack(stack, tuple(events))


@pytest.fixture(params=[pytest.param(3, id="every third"), pytest.param(1, id="all", marks=pytest.mark.system)])
def numbers(request: pytest.FixtureRequest) -> range:
    """Numbers of held-out sentences."""
    return range(0, len(SENTENCES), request.param)


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    """Records a measured figure; all of them are printed when the tests are through."""

    def record(name: str, value: str) -> None:
        request.node.user_properties.append(("figure", f"{name:<50} {value}"))

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # From the reports: the tests may have run in other processes.
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    calls = [report for report in reports if getattr(report, "when", "") == "call"]
    figures = [value for report in calls for name, value in report.user_properties if name == "figure"]
    if figures:
        terminalreporter.section("figures")
        for line in figures:
            terminalreporter.write_line(line)
