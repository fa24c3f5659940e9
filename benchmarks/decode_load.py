"""(c) Measures how many streams play without underrun: deadline policy with kept state, and fifo with recomputation.

    python -m benchmarks.decode_load [--family cosyvoice3 | --costs FILE] [--speed 300] [--plot FILE]

The whole stack runs with simulated backends: real processes and gRPC, but they sleep instead of computing. `--speed`
divides the costs, so that one CPU core's figures represent a device that is this much faster. For each policy it
searches the largest load that is held: no request refused, at most 1% of the streams with an underrun, p95 of the first
audio within `--target`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from cli.bench.connection import open_api
from cli.bench.generator import offer
from cli.bench.load import text_load
from cli.bench.output import HEADER, line, plot
from cli.bench.report import Report, Target, report
from cli.bench.search import largest_held
from cli.client import Access
from cli.local.stack import Stack, StackConfig
from services.decode.engine.backends import CostModel

FOLDER = Path(__file__).parents[1] / "services" / "decode" / "costs"
COSTS = {"cosyvoice2": FOLDER / "full-cpu.json", "cosyvoice3": FOLDER / "full-cpu-cosyvoice3.json"}
"""Costs of each family's 0.5B layout."""
TEXT = "And who is this person you are speaking of, and why did they not come to the house when we asked them to?"
LLM_COSTS = {"step_s": 0.003, "step_s_per_sequence": 0.00005, "prefill_s_per_token": 1e-6, "tokens_per_text_id": 8.0}
"""Costs of an llm that is never the bottleneck."""
UNLIMITED = ("--decode-admission", "off", "--decode-max-streams", "512", "--decode-max-queue", "512")
"""Refuse no stream, so that only the policies determine which streams are late."""


@dataclass(frozen=True)
class Policy:
    """How a worker selects its next batch."""

    name: str
    flags: tuple[str, ...]
    first_rate: float
    """First rate of the search, in utterances per second and per 100 of `--speed`."""


OURS = Policy(
    "deadline, state kept, growing hops",
    ("--decode-policy", "deadline", "--decode-max-batch-size", "8"),
    first_rate=1.5,
)
THEIRS = Policy(
    "fifo, batch 1, hops of 25 recomputed",
    (
        *("--decode-policy", "fifo", "--decode-max-batch-size", "1"),
        *("--decode-clocked-recompute", "--decode-fixed-hops"),
    ),
    first_rate=0.25,
)


def main() -> None:
    options = arguments()
    target = Target(options.target)
    print(
        f"costs {options.costs.name} divided by {options.speed:g}; p95 of the first audio within {options.target:g} s"
    )
    curves: dict[str, list[Report]] = {}
    held = []
    for policy in (THEIRS, OURS):
        print(f"{policy.name}\n{HEADER}", flush=True)
        best, loads = asyncio.run(search(policy, options, target))
        held.append(best.offered if best else 0.0)
        print(f"held: {held[-1]:.1f} streams", flush=True)
        curves[policy.name] = loads
    theirs, ours = held
    if theirs:
        print(f"{ours / theirs:.1f} × the streams at a p95 within {options.target:g} s (target: at least 5)")
    print(f"load average {' '.join(f'{load:.1f}' for load in os.getloadavg())} on {os.cpu_count()} cores")
    if options.plot:
        plot(curves, options.plot, top=2 * options.target)
        print(f"wrote {options.plot}")


def arguments() -> argparse.Namespace:
    description = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode_load", description=description)
    parser.add_argument("--family", choices=list(COSTS), default="cosyvoice2", help="family of the 0.5B layout")
    parser.add_argument("--costs", type=Path, help="other costs, measured by `python -m benchmarks.decode --costs`")
    parser.add_argument("--speed", type=float, default=300.0, help="divide the measured costs by this")
    parser.add_argument("--seconds", type=float, default=60.0, help="duration of a load, at least several utterances")
    parser.add_argument("--utterances", type=int, default=80, help="least number per load; slow rates then take longer")
    parser.add_argument("--target", type=float, default=0.8, help="largest p95 time to first audio that counts as held")
    parser.add_argument("--within", type=float, default=1.1, help="precision of the search, as a factor")
    parser.add_argument("--plot", type=Path, help="write a picture of the loads to this file (.svg, .png)")
    return parser.parse_args()


async def search(policy: Policy, options: argparse.Namespace, target: Target) -> tuple[Report | None, list[Report]]:
    """Return the largest load that one decode worker holds, and all measured loads."""
    loads: list[Report] = []
    with tempfile.TemporaryDirectory(prefix="decode-load-") as temporary:
        costs = options.costs or COSTS[options.family]
        async with (
            Stack(config(Path(temporary), policy, costs, options.speed)) as stack,
            open_api("grpc", Access(stack.gateway.address)) as api,
        ):
            await offer(api, text_load(TEXT, rate=0.5, seconds=5.0))  # caches the voice

            async def measure(rate: float) -> Report:
                load = text_load(TEXT, rate, max(options.seconds, options.utterances / rate))
                loads.append(one := report(await offer(api, load)))
                print(line(one), flush=True)
                return one

            best = await largest_held(measure, target, policy.first_rate * options.speed / 100, options.within)
    return best, loads


def config(directory: Path, policy: Policy, costs: Path, speed: float) -> StackConfig:
    measured = asdict(CostModel.read(costs))
    scaled = {name: value if name == "holdback_frames" else value / speed for name, value in measured.items()}
    files = {"decode": scaled, "llm": LLM_COSTS}
    for service, content in files.items():
        (directory / f"{service}.json").write_text(json.dumps(content), encoding="utf-8")
    simulated = {
        service: (f"--{service}-backend", "simulated", f"--{service}-cost-file", str(directory / f"{service}.json"))
        for service in files
    }
    return StackConfig(
        decode_workers=1,
        log_dir=directory / "logs",
        flags={
            "llm": (*simulated["llm"], "--max-running", "512"),
            "decode": (*simulated["decode"], *UNLIMITED, *policy.flags),
            "gateway": (),
        },
    )


if __name__ == "__main__":
    main()
