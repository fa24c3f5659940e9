"""Compares the simulator with the real stack on simulated backends, at the same arrivals.

    python -m benchmarks.simulator_agreement [--streams 20,40,60] [--seconds 30]

The real stack is processes and gRPC whose engines sleep for cost files instead of computing. The simulator runs the
same services, costs and arrival times under virtual time. Prints per load the first audio (p50, p95) and the goodput
(seconds of audio per second) of both, and a verdict. Other work on the machine delays the real stack alone: a load
during which the load generator lagged is repeated. Exits with 0 if the two agree within `--within`, with 1 if they do
not, and with 2 if a load had no run without lag.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cli.bench.connection import open_api
from cli.bench.generator import offer
from cli.bench.load import text_load
from cli.bench.report import LAG_SECONDS, Report, report
from cli.client import Access
from cli.local.stack import Stack, StackConfig
from cli.simulator.command import quiet
from cli.simulator.scenario import make_scenario
from cli.simulator.simulation import simulate
from services.decode.engine.backends import CostModel

TEXT = "And who is this person you are speaking of, and why did they not come to the house when we asked them to?"
LLM_COSTS = {"step_s": 0.008, "step_s_per_sequence": 0.0001, "prefill_s_per_token": 1e-5, "tokens_per_text_id": 8.0}
DECODE_COSTS = CostModel(batch_s=0.02, stream_s=0.006, frame_s=0.0001, holdback_frames=7)
"""Costs that are long compared with the messages of this machine, whose processes share few cores."""
WORKERS = 2
PROMPT_SECONDS = 3.0
LIMITS = {"decode_max_streams": 512, "decode_max_queue": 512}
FIGURES: dict[str, Callable[[Report], float]] = {
    "first audio p50": lambda one: one.first_audio.p50,
    "first audio p95": lambda one: one.first_audio.p95,
    "goodput": lambda one: one.audio_per_second,
}
"""What must agree. Times in seconds, goodput in seconds of audio per second."""
AGREES, DISAGREES, NO_VERDICT = 0, 1, 2
"""Exit statuses."""


@dataclass(frozen=True)
class Row:
    """One load, real and simulated."""

    streams: float
    real: Report
    simulated: Report
    valid: bool
    """Whether the load generator kept up, so that the real figures are those of the stack."""
    load_average: float
    """Of the machine, over the last minute, after the real load."""

    @property
    def ratios(self) -> dict[str, float]:
        """The simulated figures by the real ones; NaN if one of them has no value."""
        return {name: figure(self.simulated) / (figure(self.real) or float("nan")) for name, figure in FIGURES.items()}

    def cells(self) -> list[str]:
        """Return the row of the table."""
        cells = [f"{self.streams:g}", str(self.real.asked)]
        for name, figure in FIGURES.items():
            shown = [f"{figure(one):.1f}" if name == "goodput" else _ms(figure(one)) for one in self._both]
            cells.append(f"{shown[0]}, {shown[1]}: {self.ratios[name]:.2f}")
        cells += [", ".join(str(one.streams_with_underrun) for one in self._both)]
        cells += [", ".join(str(one.refused) for one in self._both)]
        lag = f"{_ms(self.real.lag)}{'' if self.valid else ' (too much)'}"
        return [*cells, lag, f"{self.load_average:.1f}"]

    @property
    def _both(self) -> tuple[Report, Report]:
        return self.real, self.simulated


HEADER = ("streams", "requests", *FIGURES, "streams with underrun", "refused", "lag, p99", "load average")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulator_agreement",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--streams", default="20,40,60", help="loads, in streams that play at once")
    parser.add_argument("--seconds", type=float, default=30.0, help="duration of a load")
    parser.add_argument("--within", type=float, default=0.1, help="largest deviation of a ratio from 1")
    parser.add_argument(
        "--lag", type=float, default=LAG_SECONDS, help="largest lag (p99, seconds) of a run that counts"
    )
    parser.add_argument("--attempts", type=int, default=3, help="runs of a load, at most, until one has no lag")
    parser.add_argument("--network", type=float, default=0.001, help="the simulator's seconds per message")
    parser.add_argument("--encode", type=float, default=0.004, help="the simulator's seconds for a text")
    options = parser.parse_args()
    quiet()
    print(f"load average {' '.join(f'{load:.1f}' for load in os.getloadavg())} on {os.cpu_count()} cores")
    rows = asyncio.run(compare(options))
    said, status = verdict(rows, options.within)
    print(said)
    raise SystemExit(status)


async def compare(options: argparse.Namespace) -> list[Row]:
    """Print a table of all runs; return the last row of each load."""
    print("Each figure: real, simulated: ratio.\n")
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="simulator-agreement-") as temporary:
        folder = Path(temporary)
        async with (
            Stack(stack_config(folder, WORKERS, DECODE_COSTS)) as stack,
            open_api("grpc", Access(stack.gateway.address)) as api,
        ):
            first = report(await offer(api, text_load(TEXT, rate=1.0, seconds=4.0)))  # caches the voice
            for streams in map(float, options.streams.split(",")):
                rate = streams / first.audio_seconds
                simulated = await asyncio.to_thread(simulation, folder, rate, first.audio_seconds, options)

                async def run(rate: float = rate) -> Report:
                    return report(await offer(api, text_load(TEXT, rate, options.seconds)))

                rows.append(await without_lag(run, streams, simulated, options.attempts, options.lag))
    return rows


async def without_lag(
    run: Callable[[], Awaitable[Report]], streams: float, simulated: Report, attempts: int, lag: float
) -> Row:
    """Run a load until the load generator keeps up, `attempts` times at most; print and return the last row."""
    for left in reversed(range(max(1, attempts))):
        real = await run()
        row = Row(streams, real, simulated, real.lag <= lag, os.getloadavg()[0])
        print(f"| {' | '.join(row.cells())} |", flush=True)
        if row.valid or not left:
            break
    return row


def verdict(rows: Sequence[Row], within: float) -> tuple[str, int]:
    """Return what the rows show, and the exit status."""
    found = [(abs(ratio - 1), name, row, ratio) for row in rows if row.valid for name, ratio in row.ratios.items()]
    apart = [one for one in found if not one[0] <= within]  # NaN too
    lagged = [f"{row.streams:g}" for row in rows if not row.valid]
    if apart:
        listed = "; ".join(f"{name} at {row.streams:g} streams {ratio:.2f}" for _, name, row, ratio in apart)
        return f"verdict: the simulator DISAGREES with the real stack by more than {within:.0%}: {listed}", DISAGREES
    if lagged or not rows:
        return (
            f"no verdict: the load generator lagged in every run at {', '.join(lagged)} streams, so the real figures "
            "are not those of the stack; run it on a quiet machine, or with fewer --streams",
            NO_VERDICT,
        )
    _, name, row, ratio = max(found, key=lambda one: one[0])
    return (
        f"verdict: the simulator agrees with the real stack within {within:.0%} in all {len(found)} figures of "
        f"{len(rows)} loads; the worst is {name} at {row.streams:g} streams, {ratio:.2f}",
        AGREES,
    )


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"


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


def stack_config(folder: Path, workers: int, decode_costs: CostModel, *decode_flags: str) -> StackConfig:
    """Write the cost files into `folder`, and return a stack whose engines sleep for them, without limits of number."""
    for name, costs in (("llm", LLM_COSTS), ("decode", asdict(decode_costs))):
        (folder / f"{name}.json").write_text(json.dumps(costs), encoding="utf-8")
    flags: dict[str, tuple[str, ...]] = {
        name: (f"--{name}-backend", "simulated", f"--{name}-cost-file", str(folder / f"{name}.json"))
        for name in ("llm", "decode")
    }
    flags["llm"] += ("--max-running", "512")
    flags["decode"] += decode_flags
    for name, value in LIMITS.items():
        flags["decode"] += (f"--{name.replace('_', '-')}", str(value))
    return StackConfig(decode_workers=workers, log_dir=folder / "logs", log_level="warning", flags=flags)


if __name__ == "__main__":
    main()
