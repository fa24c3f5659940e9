"""Compares the simulator with the real stack on simulated backends, at the same arrivals.

    python -m benchmarks.simulator_agreement [--streams 20,40,60] [--seconds 30]

The real stack is processes and gRPC whose engines sleep for cost files instead of computing. The simulator runs the
same services, costs and arrival times under virtual time. Prints first audio, underruns and refusals of both, and the
ratios of first audio; exits with 1 if one of them is outside 1 ± `--within`. Other work on the machine delays the real
stack alone, so a row counts only if the lag of the load generator is a few milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

from cli.bench.connection import open_api
from cli.bench.generator import offer
from cli.bench.load import text_load
from cli.bench.report import Report, report
from cli.client import Access
from cli.local.stack import Stack, StackConfig
from cli.simulator.command import quiet
from cli.simulator.scenario import make_scenario
from cli.simulator.simulation import simulate
from services.decode.engine.backends import CostModel

TEXT = "And who is this person you are speaking of, and why did they not come to the house when we asked them to?"
LLM_COSTS = {"step_s": 0.008, "step_s_per_sequence": 0.0001, "prefill_s_per_token": 1e-5, "tokens_per_text_id": 8.0}
DECODE_COSTS = CostModel(batch_s=0.02, stream_s=0.006, frame_s=0.0001, holdback_frames=7)
"""Costs that are long beside the messages of this machine, whose processes share few cores."""
WORKERS = 2
PROMPT_SECONDS = 3.0
LIMITS = {"decode_max_streams": 512, "decode_max_queue": 512}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulator_agreement", description=(__doc__ or "")[:70])
    parser.add_argument("--streams", default="20,40,60", help="loads, in streams that play at once")
    parser.add_argument("--seconds", type=float, default=30.0, help="duration of a load")
    parser.add_argument("--within", type=float, default=0.1, help="largest deviation of a ratio from 1")
    parser.add_argument("--network", type=float, default=0.001, help="the simulator's seconds per message")
    parser.add_argument("--encode", type=float, default=0.004, help="the simulator's seconds for a text")
    options = parser.parse_args()
    quiet()
    ratios = asyncio.run(compare(options))
    print(f"load average {' '.join(f'{load:.1f}' for load in os.getloadavg())} on {os.cpu_count()} cores")
    raise SystemExit(any(abs(ratio - 1) > options.within for ratio in ratios))


async def compare(options: argparse.Namespace) -> list[float]:
    """Print a table; return the ratios of the times to the first audio."""
    print("| streams | requests | first audio p50, real | simulated | ratio | p95, real | simulated | ratio |", end="")
    print(" streams with underrun | refused | lag |\n|---|---|---|---|---|---|---|---|---|---|---|")
    ratios: list[float] = []
    with tempfile.TemporaryDirectory(prefix="simulator-agreement-") as temporary:
        folder = Path(temporary)
        for name, costs in (("llm", LLM_COSTS), ("decode", asdict(DECODE_COSTS))):
            (folder / f"{name}.json").write_text(json.dumps(costs), encoding="utf-8")
        async with Stack(stack_config(folder)) as stack, open_api("grpc", Access(stack.gateway.address)) as api:
            first = report(await offer(api, text_load(TEXT, rate=1.0, seconds=4.0)))  # caches the voice
            for streams in map(float, options.streams.split(",")):
                rate = streams / first.audio_seconds
                real = report(await offer(api, text_load(TEXT, rate, options.seconds)))
                simulated = await asyncio.to_thread(simulation, folder, rate, first.audio_seconds, options)
                ratios += row(streams, real, simulated)
    return ratios


def row(streams: float, real: Report, simulated: Report) -> list[float]:
    """Print a row; return its ratios."""
    cells = [f"{streams:g}", str(real.asked)]
    ratios = []
    for percent in ("p50", "p95"):
        times = [getattr(one.first_audio, percent) for one in (real, simulated)]
        ratios.append(times[1] / times[0])
        cells += [*(f"{1000 * seconds:.0f} ms" for seconds in times), f"{ratios[-1]:.2f}"]
    cells += [f"{real.streams_with_underrun}, {simulated.streams_with_underrun}"]
    cells += [f"{real.refused}, {simulated.refused}", f"{1000 * real.lag:.0f} ms{'' if real.valid else ' (invalid)'}"]
    print(f"| {' | '.join(cells)} |", flush=True)
    return ratios


def simulation(folder: Path, rate: float, audio_seconds: float, options: argparse.Namespace) -> Report:
    """Return the simulator's figures at the same arrivals."""
    fields = {
        "decode_workers": WORKERS,
        "llm_cost_file": folder / "llm.json",
        "decode_cost_file": folder / "decode.json",
        "decode": LIMITS,
        "llm": {"max_running": 512},
        "rate": rate,
        "seconds": options.seconds,
        "sentence_seconds": audio_seconds,
        "prompt_seconds": PROMPT_SECONDS,
        "network_seconds": options.network,
        "encode_seconds": options.encode,
    }
    return simulate(make_scenario(fields)).report


def stack_config(folder: Path) -> StackConfig:
    flags: dict[str, tuple[str, ...]] = {
        name: (f"--{name}-backend", "simulated", f"--{name}-cost-file", str(folder / f"{name}.json"))
        for name in ("llm", "decode")
    }
    flags["llm"] += ("--max-running", "512")
    for name, value in LIMITS.items():
        flags["decode"] += (f"--{name.replace('_', '-')}", str(value))
    return StackConfig(decode_workers=WORKERS, log_dir=folder / "logs", log_level="warning", flags=flags)


if __name__ == "__main__":
    main()
