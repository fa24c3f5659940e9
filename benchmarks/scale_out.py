"""Measures how throughput grows with decode workers, and what one core of each relaying process carries.

    python -m benchmarks.scale_out [--workers 1,2,4,8] [--streams 24] [--seconds 15]

The whole stack runs with simulated backends: real processes and gRPC, whose engines sleep for their costs instead of
computing. A decode worker takes a tenth of a second for each second of audio, so ten streams keep it busy. For each
number of workers, `--streams` times as many streams speak at once, more than the workers can decode in time. The
workers accept them all the same, because refusals would be work without audio. Columns:

    audio/s       seconds of audio per second that reached the client
    ratio         that by the one of one worker
    llm, gateway  processor time per second of audio
    decode        the same, of all decode workers: their gRPC and scheduling alone
    a core        streams that one core of this process carries: the reciprocal of its processor time
    client        the load generator's processor time per second of audio, and its lag (p99)
    machine       share of the machine's cores that was busy, other programs included

The processes share the cores of one machine. Where `machine` is near 100 %, the ratio shows the limit of this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.simulator_agreement import TEXT, stack_config
from cli.bench.connection import open_api
from cli.bench.generator import offer
from cli.bench.load import Load, text_load
from cli.bench.prompts import Prompt
from cli.bench.report import Report, report
from cli.client import Access
from cli.local.stack import Stack
from cli.local.start_clock import processor_seconds
from cli.simulator.command import quiet
from services.decode.engine.backends import CostModel

DECODE_COSTS = CostModel(batch_s=0.01, stream_s=0.0, frame_s=0.002, holdback_frames=7)
"""50 frames are a second of audio."""
HEADER = ("workers", "streams", "audio/s", "ratio", "llm", "a core", "gateway", "a core", "decode", "client", "machine")


@dataclass(frozen=True)
class Row:
    """One number of workers. Times are processor seconds of the whole load."""

    workers: int
    streams: int
    report: Report
    llm: float
    gateway: float
    decode: float
    client: float
    busy: float
    """Share of the machine's cores."""

    def cells(self, one_worker: float) -> list[str]:
        """Return the row of the table; `one_worker` is the throughput of one worker."""
        rate = self.report.audio_per_second
        audio = rate * self.report.seconds
        lag = f"{1000 * self.report.lag:.0f} ms{'' if self.report.valid else ' (too much)'}"
        cells = [str(self.workers), str(self.streams), f"{rate:.1f}", f"{rate / one_worker:.2f}"]
        for seconds in (self.llm, self.gateway):
            cells += [f"{1000 * seconds / audio:.1f} ms", f"{audio / seconds:.0f}"]
        cells += [f"{1000 * self.decode / audio:.1f} ms", f"{1000 * self.client / audio:.1f} ms, {lag}"]
        return [*cells, f"{self.busy:.0%}"]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale_out", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", default="1,2,4,8", help="numbers of decode workers, the first of them 1")
    parser.add_argument("--streams", type=int, default=24, help="streams at once for each worker")
    parser.add_argument("--seconds", type=float, default=15.0, help="duration of a load")
    options = parser.parse_args()
    quiet()
    print(f"load average {' '.join(f'{load:.1f}' for load in os.getloadavg())} on {os.cpu_count()} cores")
    asyncio.run(scale([int(one) for one in options.workers.split(",")], options.streams, options.seconds))


async def scale(workers: Sequence[int], streams: int, seconds: float) -> list[Row]:
    """Print the table; return its rows."""
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    rows: list[Row] = []
    for number in workers:
        rows.append(await measure(number, streams * number, seconds))
        print(f"| {' | '.join(rows[-1].cells(rows[0].report.audio_per_second))} |", flush=True)
    return rows


async def measure(workers: int, streams: int, seconds: float) -> Row:
    """Start a stack and keep `streams` utterances under way for `seconds`."""
    with tempfile.TemporaryDirectory(prefix="scale-out-") as folder:
        config = stack_config(Path(folder), workers, DECODE_COSTS, "--decode-admission", "off")
        async with Stack(config) as stack, open_api("grpc", Access(stack.gateway.address)) as api:
            await offer(api, text_load(TEXT, rate=2.0, seconds=3.0))  # caches the voice, and measures the hops
            parts = {"llm": stack.llms, "gateway": [stack.gateway], "decode": stack.decode}

            def used() -> dict[str, float]:
                found = {name: sum(processor_seconds(one.pid) for one in part) for name, part in parts.items()}
                return found | {"client": time.process_time()}

            before = used()
            psutil.cpu_percent()
            found = report(await offer(api, Load((Prompt(TEXT),), seconds, streams=streams)))
            busy = psutil.cpu_percent() / 100
            after = used()
    return Row(workers, streams, found, **{name: after[name] - before[name] for name in after}, busy=busy)


if __name__ == "__main__":
    main()
