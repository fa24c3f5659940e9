"""(c) Streams held without underrun, deadline with kept state against fifo + batch 1 + recompute, at measured costs.

    python -m benchmarks.decode_load [--costs services/decode/costs/full-cpu.json] [--speed 100] [--seconds 60]

The whole stack runs with clocked backends: real processes, real gRPC, time slept instead of computed. `--speed` divides
the costs, so that one CPU core's figures stand for a device that much faster: ratios between policies stay.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cli.bench import Load, Report, offer, report
from cli.stack import Stack, StackConfig

COSTS = Path(__file__).parents[1] / "services" / "decode" / "costs" / "full-cpu.json"
TEXT = "And who is this person you are speaking of, and why did they not come to the house when we asked them to?"
LLM_COSTS = {"step_s": 0.003, "step_s_per_sequence": 0.00005, "prefill_s_per_token": 1e-6, "tokens_per_text_id": 8.0}
"""An llm stage that is never the bottleneck."""
POLICIES: dict[str, tuple[str, ...]] = {
    "deadline, state kept, growing hops": ("--decode-policy", "deadline", "--decode-max-batch-size", "8"),
    "fifo, batch 1, hop 25 recomputed": (
        *("--decode-policy", "fifo", "--decode-max-batch-size", "1"),
        *("--decode-clocked-recompute", "--decode-fixed-hops"),
    ),
}
UNDERRUNS_ALLOWED = 0.01
"""Share of streams that may hear silence where a load counts as held."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--costs", type=Path, default=COSTS, help="measured by `python -m benchmarks.decode --costs`")
    parser.add_argument("--speed", type=float, default=100.0, help="how much faster the device is taken to be")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each load")
    parser.add_argument("--target", type=float, default=0.8, help="largest p95 time to first audio that counts as held")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.1, 0.2, 0.3, 0.4, 1.0, 1.4, 1.7, 2.0])
    options = parser.parse_args()
    held: dict[str, float] = {}
    for name, flags in POLICIES.items():
        print(f"{name}\n  rate/s  streams  asked  refused  first audio p50   p95  underruns/stream  silence p95")
        figures = asyncio.run(run(flags, options.costs, options.speed, options.rates, options.seconds, options.target))
        held[name] = max((one.offered for one in figures if holds(one, options.target)), default=0.0)
        print(f"  held: {held[name]:.1f} streams")
    ours, theirs = held.values()
    if theirs:
        print(f"{ours / theirs:.1f} × the streams (wanted: at least 5)")
    print(f"load average {' '.join(f'{load:.1f}' for load in os.getloadavg())} on {os.cpu_count()} cores")


async def run(
    flags: Sequence[str], costs: Path, speed: float, rates: Sequence[float], seconds: float, target: float
) -> list[Report]:
    """One stack with one decode worker, loads rising until one is not held."""
    figures: list[Report] = []
    with tempfile.TemporaryDirectory(prefix="decode-load-") as temporary:
        async with Stack(config(Path(temporary), flags, costs, speed)) as stack:
            await offer(stack.gateway.address, Load(TEXT, rate=0.5, seconds=5.0))  # voice known, connections made
            for rate in rates:
                load = Load(TEXT, rate, seconds)
                figures.append(one := report(load, await offer(stack.gateway.address, load)))
                print(
                    f"  {rate:6.2f} {one.offered:8.1f} {one.asked:6} {one.refused:8} {one.p50_first_audio:16.2f} "
                    f"{one.p95_first_audio:5.2f} {one.underruns_per_stream:17.2f} {one.p95_silence:12.2f}",
                    flush=True,
                )
                if not holds(one, target):
                    break
    return figures


def holds(one: Report, target: float) -> bool:
    """Whether listeners had their first audio in time and no silence, nobody refused."""
    if not one.asked:
        return True
    silent = one.streams_with_underrun / one.asked
    return one.refused == 0 and silent <= UNDERRUNS_ALLOWED and one.p95_first_audio <= target


def config(directory: Path, flags: Sequence[str], costs: Path, speed: float) -> StackConfig:
    measured = json.loads(costs.read_text(encoding="utf-8"))
    scaled = {name: value if name == "holdback_frames" else value / speed for name, value in measured.items()}
    files = {"decode": scaled, "llm": LLM_COSTS}
    for service, content in files.items():
        (directory / f"{service}.json").write_text(json.dumps(content), encoding="utf-8")
    clocked = {
        service: (f"--{service}-backend", "clocked", f"--{service}-cost-file", str(directory / f"{service}.json"))
        for service in files
    }
    unlimited = ("--decode-admission", "off", "--decode-max-streams", "512", "--decode-max-queue", "512")
    return StackConfig(
        decode_workers=1,
        log_dir=directory / "logs",
        flags={
            "llm": (*clocked["llm"], "--max-running", "512"),
            "decode": (*clocked["decode"], *unlimited, *flags),
            "gateway": (),
        },
    )


if __name__ == "__main__":
    main()
