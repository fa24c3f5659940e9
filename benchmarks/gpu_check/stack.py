"""All services on one card: their start time, their effective settings, and load over gRPC."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.check import Check
from benchmarks.gpu_check.processes import ROOT
from cli.bench.apis import Api
from cli.bench.connection import open_api
from cli.bench.generator import offer
from cli.bench.load import Load
from cli.bench.output import HEADER
from cli.bench.output import line as figures
from cli.bench.prompts import Prompt
from cli.bench.report import Report, report
from cli.client import Access
from cli.demo import SENTENCE
from cli.local.process import is_serving
from cli.local.stack import Stack, StackConfig

MAX_SECONDS = "8"
"""Longest utterance: a random model does not end by itself."""
START_TIMEOUT_S = 110.0
LOG_CHARACTERS = 60_000
_TEXT = (Prompt(SENTENCE),)
LOADS = (
    *(Load(_TEXT, seconds=5.0, streams=streams) for streams in (1, 2, 4, 8, 16, 32, 64)),
    *(Load(_TEXT, seconds=5.0, rate=rate) for rate in (5.0, 10.0, 20.0)),
)
"""Closed and open loads, whose figures other servers publish too."""
TINY_LOADS = (Load(_TEXT, seconds=1.0, streams=1), Load(_TEXT, seconds=3.0, rate=1.0))
KILL_LOAD, TINY_KILL_LOAD = Load(_TEXT, seconds=6.0, streams=16), Load(_TEXT, seconds=3.0, streams=2)
COMPUTING = ("llm", "decode-1")
"""The processes that use the device."""


def stack(check: Check) -> None:
    """Start encode, llm, one decode worker and the gateway, and offer utterances at rising rates."""
    with_services(check, "stack", 1, _all_loads)


def kill(check: Check) -> None:
    """Kill one of two decode workers of one card while streams play; none may fail."""
    with_services(check, "kill", 2, _kill_one)


Use = Callable[[Check, Stack, Api], Awaitable[None]]


def with_services(check: Check, name: str, decode_workers: int, use: Use) -> None:
    """Start all services with that many decode workers, call `use`, and write their logs to NAME.log."""
    # The services inherit both. They do not look for modules in the current folder, and a bare machine has no
    # installation.
    os.environ["LIGHTTTS_MAX_SECONDS"] = MAX_SECONDS
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory(prefix="gpu-check-logs-") as folder:
        logs = Path(folder)
        try:
            asyncio.run(_serve(check, logs, decode_workers, use))
        finally:
            texts = (f"=== {log.name}\n{_text(log)[-LOG_CHARACTERS:]}" for log in sorted(logs.glob("*.log")))
            (check.out / f"{name}.log").write_text("\n".join(texts), encoding="utf-8")
            _report_settled(check, logs)


async def _serve(check: Check, logs: Path, decode_workers: int, use: Use) -> None:
    config = StackConfig(
        model_dir=check.checkpoint,
        decode_workers=decode_workers,
        devices=(check.device,),
        log_dir=logs,
        start_timeout=START_TIMEOUT_S,
        restart_dead=False,
    )
    started = time.perf_counter()
    async with Stack(config) as services:
        check.report("all services serve after, s", round(time.perf_counter() - started, 1))
        async with open_api("grpc", Access(services.gateway.address)) as api:
            await use(check, services, api)
        if check.on_gpu:
            check.report("GPU memory by process", _memory_by_process())


async def _all_loads(check: Check, services: Stack, api: Api) -> None:
    for load in LOADS if check.on_gpu else TINY_LOADS:
        report_load(check, report(await offer(api, load)))


async def _kill_one(check: Check, services: Stack, api: Api) -> None:
    # The stack serves as soon as one decode worker does.
    for worker in services.decode:
        while not await is_serving(worker.address):  # noqa: ASYNC110 - gRPC health offers no event here
            await asyncio.sleep(0.2)
    load = KILL_LOAD if check.on_gpu else TINY_KILL_LOAD
    offered = asyncio.create_task(offer(api, load))
    await asyncio.sleep(load.seconds / 2)
    services.decode[0].kill()
    report_load(check, report(await offered))


def report_load(check: Check, found: Report) -> None:
    """Report a load's figures, and whether all its requests were spoken or refused."""
    check.report(f"load {found.load}", f"{HEADER}\n{figures(found)}\n")
    spoken = found.asked - found.refused - found.failed
    what = f"{spoken} of {found.asked} spoken, {found.refused} refused. {found.failure}".rstrip(". ")
    check.expect(f"load {found.load}: none failed", found.failed == 0 and spoken > 0, what)


def _memory_by_process() -> list[str]:
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return done.stdout.strip().splitlines()


def _report_settled(check: Check, logs: Path) -> None:
    """Report the device and settings of llm and decode from their logs, and every warning."""
    for name in COMPUTING:
        lines = [_parsed(line) for line in _text(logs / f"{name}.log").splitlines()]
        used = [line for line in lines if line.get("level") == "info" and "device" in line]
        for line in used:
            check.report(f"{name}: {line.get('event')}", _fields(line))
        check.expect(f"{name} runs on {check.device}", any(line["device"] == check.device for line in used))
        for number, line in enumerate(line for line in lines if line.get("level") in ("warning", "error")):
            check.report(f"{name}: warning {number + 1}", f"{line.get('event')} ({_fields(line)})")


def _text(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""


def _parsed(line: str) -> dict[str, Any]:
    try:
        parsed = json.loads(line)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _fields(line: dict[str, Any]) -> str:
    common = ("event", "level", "timestamp", "service", "worker", "logger")
    return ", ".join(f"{name}={value}" for name, value in line.items() if name not in common)
