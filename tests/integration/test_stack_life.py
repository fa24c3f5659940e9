"""A stack of real processes: its end-to-end health while every decode worker is frozen, and how it stops."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx

from cli.local.stack import Stack, StackConfig
from tests.support.spoken import say

LIMIT_SECONDS = 400
COSTS = {
    "llm": {"step_s": 0.01, "step_s_per_sequence": 0.0, "prefill_s_per_token": 0.0},
    "decode": {"batch_s": 0.05, "stream_s": 0.02, "frame_s": 0.0005},
}
TEXT = "We do not tell. And who is this? We heard it in the house."


def simulated(folder: Path) -> StackConfig:
    """Return a stack whose engines are simulated."""
    flags: dict[str, tuple[str, ...]] = {"gateway": ("--health-grace-seconds", "0")}
    for service, costs in COSTS.items():
        path = folder / f"{service}.json"
        path.write_text(json.dumps(costs), encoding="utf-8")
        flags[service] = (f"--{service}-backend", "simulated", f"--{service}-cost-file", str(path))
    return StackConfig(decode_workers=2, log_dir=folder, flags=flags, drain_grace=LIMIT_SECONDS)


async def becomes(http: httpx.AsyncClient, path: str, status: int) -> httpx.Response:
    """Poll until the answer has this status."""
    while (answer := await http.get(path)).status_code != status:  # noqa: ASYNC110 - another process changes it
        await asyncio.sleep(0.05)
    return answer


async def test_a_stack_reports_frozen_decode_workers_and_stops_after_its_streams(tmp_path: Path) -> None:
    async with asyncio.timeout(LIMIT_SECONDS), Stack(simulated(tmp_path)) as stack:
        async with httpx.AsyncClient(base_url=stack.http_url, trust_env=False, timeout=LIMIT_SECONDS) as http:
            assert (await http.get("/health")).status_code == 200  # a stack that has started can speak
            for worker in stack.decode:
                worker.freeze()
            answer = await becomes(http, "/health", 503)
            assert answer.json()["reason"] == "no decode worker is serving"
            assert (await http.get("/readiness")).status_code == 200
            for worker in stack.decode:
                worker.thaw()
            await becomes(http, "/health", 200)

        whole = await say(stack, TEXT)
        begun = asyncio.Event()
        speaking = asyncio.create_task(say(stack, TEXT, on_first_chunk=begun.set))
        await begun.wait()
        await stack.close()  # the first of three sentences plays
        assert len((await speaking).samples) == len(whole.samples)
