"""Measures what large requests cost a gateway: its memory, and how long they delay others.

    python -m benchmarks.bodies [--requests 20] [--megabytes 19]

The stack runs with simulated backends. Requests with a recording in base64 arrive together, while another process
sends small requests; the longest wait for their answers shows how long the event loop stood still.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import psutil

from benchmarks.sessions import stack_config
from cli.local.stack import Stack

PAUSE_SECONDS = 0.01


def longest_wait(url: str, ended: Path) -> float:
    """Send small requests until `ended` exists; return the longest wait for an answer, in seconds."""
    longest = 0.0
    with httpx.Client(trust_env=False, timeout=120) as http:
        while not ended.exists():
            began = time.monotonic()
            http.get(url)
            longest = max(longest, time.monotonic() - began)
            time.sleep(PAUSE_SECONDS)
    return longest


async def measure(requests: int, megabytes: float) -> None:
    audio = base64.b64encode(b"RIFF" + bytes(int(megabytes * 2**20))).decode()
    fields = {"input": "Hi.", "response_format": "pcm", "ref_audio": audio, "ref_text": "hello"}
    body, kind = json.dumps(fields).encode(), {"content-type": "application/json"}
    async with AsyncExitStack() as opened:
        folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="bodies-"))
        options = argparse.Namespace(decode_workers=1, decode_flags="")
        stack = await opened.enter_async_context(Stack(stack_config(Path(folder), options)))
        url = stack.http_url
        http = await opened.enter_async_context(httpx.AsyncClient(base_url=url, trust_env=False, timeout=120))
        gateway = psutil.Process(stack.gateway.pid)
        before = most = gateway.memory_info().rss
        pool = opened.enter_context(ProcessPoolExecutor(1))  # this process is busy with sending
        ended = Path(folder, "ended")
        probing = asyncio.get_running_loop().run_in_executor(pool, longest_wait, f"{url}/liveness", ended)
        await asyncio.sleep(1.0)  # until the other process has started
        posts = [
            asyncio.create_task(http.post("/v1/audio/speech", content=body, headers=kind)) for _ in range(requests)
        ]
        while not all(post.done() for post in posts):
            most = max(most, gateway.memory_info().rss)
            await asyncio.sleep(PAUSE_SECONDS)
        await asyncio.to_thread(ended.touch)
        longest = await probing
        codes = Counter(post.result().status_code for post in posts if post.exception() is None)
        broken = sum(post.exception() is not None for post in posts)
        sys.stdout.write(
            f"{requests} requests of {len(audio) / 2**20:.0f} MiB: status {dict(codes)}, broken {broken}\n"
            f"memory of the gateway: {before / 2**20:.0f} MiB before, {most / 2**20:.0f} MiB at most\n"
            f"longest wait for /liveness: {1000 * longest:.0f} ms\n"
            f"load average {' '.join(f'{load:.1f}' for load in os.getloadavg())} on {os.cpu_count()} cores\n"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bodies", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=20, help="requests at once")
    parser.add_argument("--megabytes", type=float, default=19.0, help="size of a recording; base64 adds a third")
    options = parser.parse_args()
    asyncio.run(measure(options.requests, options.megabytes))


if __name__ == "__main__":
    main()
