"""Supervision of one process, with a stand-in that only answers health checks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from cli.local.ports import free_ports
from cli.local.process import Worker, WorkerError, WorkerEvent, WorkerSpec, is_serving, readable

MakeWorker = Callable[..., Worker]
PATIENCE = 60.0
"""Seconds for an answer of a process on a busy machine; one that does not run is noticed at once."""


class Events:
    """Collects a worker's events and lets a test wait for the n-th of a kind."""

    def __init__(self) -> None:
        self.seen: list[WorkerEvent] = []
        self._changed = asyncio.Event()

    def __call__(self, event: WorkerEvent) -> None:
        self.seen.append(event)
        self._changed.set()

    def kinds(self) -> list[str]:
        return [event.kind for event in self.seen]

    async def wait_for(self, kind: str, times: int = 1) -> None:
        async with asyncio.timeout(400):
            while self.kinds().count(kind) < times:
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
async def make_worker(tmp_path: Path, events: Events) -> AsyncIterator[MakeWorker]:
    made: list[Worker] = []

    def make(*flags: str, restart_dead: bool = False, start_timeout: float = 60.0) -> Worker:
        port = free_ports(1).gateway.grpc
        spec = WorkerSpec(
            name="fake",
            module="tests.unit.cli.fake_service",
            flags=("--port", str(port), *flags),
            address=f"127.0.0.1:{port}",
            metrics_port=0,
            log_file=tmp_path / "fake.log",
        )
        made.append(Worker(spec, events, start_timeout, restart_dead))
        return made[-1]

    yield make
    for worker in made:
        await worker.stop(grace=0)


def alive(pid: int | None) -> bool:
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


async def test_errors_logged_by_a_serving_worker_are_shown(make_worker: MakeWorker, events: Events) -> None:
    worker = make_worker("--say", '{"event": "NO SUCH DEVICE", "level": "error", "device": "cuda:1"}')
    worker.spec.log_file.write_text('{"event": "of an earlier run", "level": "error"}\n')
    await worker.start()
    assert [event.detail for event in events.seen if event.kind == "warned"] == ["error NO SUCH DEVICE device=cuda:1"]


async def test_a_worker_whose_port_needs_tls_is_checked_at_another_port(tmp_path: Path, events: Events) -> None:
    ports = free_ports(1)
    spec = WorkerSpec(
        name="fake",
        module="tests.unit.cli.fake_service",
        flags=("--port", str(ports.http)),
        address=f"127.0.0.1:{ports.gateway.grpc}",
        metrics_port=0,
        log_file=tmp_path / "fake.log",
        health=f"127.0.0.1:{ports.http}",
    )
    worker = Worker(spec, events, start_timeout=60.0, restart_dead=False)
    try:
        await worker.start()
    finally:
        await worker.stop(grace=0)
    assert [event.detail.split()[1] for event in events.seen if event.kind == "serving"] == [spec.address]


async def test_a_worker_serves_and_stops(make_worker: MakeWorker, events: Events) -> None:
    worker = make_worker()
    await worker.start()
    assert await is_serving(worker.address, seconds=PATIENCE)
    pid = worker.pid
    assert alive(pid)
    await worker.stop(grace=30)
    assert not alive(pid)
    assert worker.pid is None
    assert events.kinds() == ["starting", "serving", "stopped"]


async def test_files_of_the_current_folder_are_not_imported(
    make_worker: MakeWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("grpc", "h11"):
        (tmp_path / f"{library}.py").write_text("raise RuntimeError('this is the wrong file')")
    monkeypatch.chdir(tmp_path)
    worker = make_worker()
    await worker.start()
    assert await is_serving(worker.address, seconds=PATIENCE)


async def test_a_worker_that_ends_while_starting_is_reported_with_its_log(make_worker: MakeWorker) -> None:
    worker = make_worker("--fail", '{"event": "cannot start", "level": "error", "reason": "no such model"}')
    with pytest.raises(WorkerError, match="fake ended while starting") as caught:
        await worker.start()
    assert "exit code 1" in str(caught.value)
    assert "error cannot start reason=no such model" in str(caught.value)


async def test_a_worker_that_never_gets_ready_fails(make_worker: MakeWorker) -> None:
    worker = make_worker("--never-ready", start_timeout=0.5)
    with pytest.raises(WorkerError, match="was not ready"):
        await worker.start()
    pid = worker.pid
    await worker.stop(grace=30)
    assert not alive(pid)


async def test_a_dead_worker_is_restarted(make_worker: MakeWorker, events: Events) -> None:
    worker = make_worker(restart_dead=True)
    await worker.start()
    first = worker.pid
    worker.kill()
    await events.wait_for("serving", times=2)
    assert worker.pid not in (None, first)
    assert events.kinds() == ["starting", "serving", "died", "starting", "serving"]
    assert "SIGKILL" in events.seen[2].detail


async def test_a_worker_whose_logs_were_removed_is_restarted_when_they_are_back(
    make_worker: MakeWorker, events: Events, tmp_path: Path
) -> None:
    worker = make_worker(restart_dead=True)
    await worker.start()
    shutil.move(tmp_path, f"{tmp_path}-moved")
    worker.kill()
    await events.wait_for("died", times=2)
    assert any("No such file or directory" in event.detail for event in events.seen)
    shutil.move(f"{tmp_path}-moved", tmp_path)
    await events.wait_for("serving", times=2)


async def test_a_dead_worker_stays_dead_without_restart_dead(make_worker: MakeWorker, events: Events) -> None:
    worker = make_worker()
    await worker.start()
    worker.kill()
    await events.wait_for("died")
    assert worker.pid is None
    await worker.restart()
    assert await is_serving(worker.address, seconds=PATIENCE)


async def test_a_frozen_worker_stops(make_worker: MakeWorker, events: Events) -> None:
    worker = make_worker()
    await worker.start()
    worker.freeze()
    await worker.stop(grace=30)
    assert events.seen[-1].detail == "exit code 0"


async def test_a_worker_that_ignores_sigterm_is_killed(make_worker: MakeWorker, events: Events) -> None:
    worker = make_worker("--deaf")
    await worker.start()
    await worker.stop(grace=0.2)
    assert worker.pid is None
    assert events.seen[-1].detail == f"exit code {-signal.SIGKILL}"


async def test_cancelled_stopping_leaves_nothing_behind(make_worker: MakeWorker) -> None:
    worker = make_worker("--deaf")
    await worker.start()
    stopping = asyncio.create_task(worker.stop(grace=60))
    await asyncio.sleep(0.05)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert worker.pid is None


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ('{"event": "loading", "level": "info", "timestamp": "x", "address": "a:1"}', "info loading address=a:1"),
        ('{"event": "call failed", "level": "error", "exception": "Traceback"}', "error call failed\nTraceback"),
        ("Traceback (most recent call last):", "Traceback (most recent call last):"),
        ("[1, 2]", "[1, 2]"),
    ],
)
def test_log_lines_become_readable(line: str, shown: str) -> None:
    assert readable(line) == shown
