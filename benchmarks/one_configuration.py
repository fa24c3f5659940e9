"""First audio and underruns over the load: the default settings and fixed profiles, simulated at the costs of a GPU.

    python -m benchmarks.one_configuration [--costs hopper] [--plot FILE]

One decode worker, and llm workers that are never full. A load of 1 is the number of streams that would keep the worker
busy all the time with full batches of hops of one second. Other servers let the operator choose a profile per load: a
small first hop for few listeners, large hops for many. Ours has no such choice. The last profile is a server that runs
one hop at a time in order of arrival and keeps no state of its streams.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cli.bench.output import PlotError, plot
from cli.bench.report import Report
from cli.simulator.command import quiet
from cli.simulator.plan import Bounds, Need
from cli.simulator.scenario import make_scenario
from cli.simulator.simulation import simulate

SERVICES = Path(__file__).parents[1] / "services"
OURS = "default"
PROFILES: Mapping[str, Mapping[str, Any]] = {
    OURS: {},
    "small first hop": {"first_frames": 18, "hop_tokens": (25,)},
    "balanced": {"first_frames": 50, "hop_tokens": (50,)},
    "large hops": {"first_frames": 100, "hop_tokens": (100,)},
    "fifo, recomputed": {
        "hop_tokens": (25,),
        "decode": {
            "decode_policy": "fifo",
            "decode_max_batch_size": 1,
            "decode_clocked_recompute": True,
            "decode_admission": "off",
            "decode_max_streams": 4096,
            "decode_max_queue": 4096,
        },
    },
}
"""Fields of the scenario. A fixed profile has one size of hops, whatever the load is."""
LOADS = "0.05,0.2,0.4,0.6,0.8,0.9,1.0,1.2"


def main() -> None:
    options = arguments()
    quiet()
    need = Need(
        streams=1,
        voice_seconds=options.voice_seconds,
        first_audio=1.0,
        llm_costs=str(options.llm_costs or SERVICES / "llm" / "costs" / f"{options.costs}.json"),
        decode_costs=str(options.decode_costs or SERVICES / "decode" / "costs" / f"{options.costs}.json"),
        sessions=options.sessions,
        seed=options.seed,
    )
    bounds = Bounds.of(need)
    print(f"a load of 1: {bounds.decode:.0f} streams of {options.voice_seconds:g} s on one decode worker")
    began = time.process_time()
    loads = [float(load) for load in options.loads.split(",")]
    found = {name: curve(need, bounds, loads, name, options.lengths) for name in PROFILES}
    print(table(loads, found))
    print(summary(loads, found))
    print(f"simulated in {time.process_time() - began:.0f} s of processor time")
    if options.plot is not None:
        try:
            plot(found, options.plot, top=options.top)
        except PlotError as error:
            raise SystemExit(str(error)) from error


def curve(need: Need, bounds: Bounds, loads: Sequence[float], profile: str, lengths: float) -> list[Report]:
    """Simulate the loads with one profile, up to the first one in which most streams have an underrun."""
    workers = {"decode_workers": 1, "llm_workers": 1 + math.ceil(1.2 * bounds.decode / bounds.llm)}
    reports: list[Report] = []
    for load in loads:
        rate = load * bounds.decode / need.voice_seconds
        seconds = max(need.sessions / rate, lengths * need.voice_seconds)
        one = simulate(make_scenario({**need.scenario(rate, **workers, seconds=seconds), **PROFILES[profile]})).report
        print(f"{profile:<17} {load:>5g} {cell(one)}", flush=True)
        reports.append(one)
        if _lost(one) > 0.5:
            break
    return reports


def cell(one: Report) -> str:
    """Return p50 / p95 of the first audio in ms, the share of streams with an underrun, and that of refused ones."""
    times = " / ".join(f"{1000 * at:.0f}" for at in (one.first_audio.p50, one.first_audio.p95))
    dry = f", {one.streams_with_underrun / one.asked:.1%} dry" if one.streams_with_underrun else ""
    return f"{times}{dry}{f', {one.refused / one.asked:.1%} refused' if one.refused else ''}"


def table(loads: Sequence[float], found: Mapping[str, Sequence[Report]]) -> str:
    """Return the Markdown table: a row per load, a column per profile."""
    rows = [["load", "streams", *found], ["---"] * (2 + len(found))]
    for index, load in enumerate(loads):
        reports = [found[name][index] if index < len(found[name]) else None for name in found]
        streams = next(one.offered for one in reports if one is not None)
        rows.append([f"{load:g}", f"{streams:.0f}", *("–" if one is None else cell(one) for one in reports)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def summary(loads: Sequence[float], found: Mapping[str, Sequence[Report]]) -> str:
    """Return how the default compares with the best fixed profile at each load, and its underruns."""
    fixed = [name for name in found if name != OURS]
    lines = []
    for index, load in list(enumerate(loads))[: len(found[OURS])]:
        ours = found[OURS][index]
        # Of the profiles that refuse and starve least.
        tried = [name for name in fixed if index < len(found[name])]
        least = min(_lost(found[name][index]) for name in tried)
        able = [name for name in tried if _lost(found[name][index]) <= least + 0.01]
        best = min(able, key=lambda name: found[name][index].first_audio.p95)
        ratio = ours.first_audio.p95 / found[best][index].first_audio.p95
        lines.append(
            f"load {load:g}: p95 {ratio:.2f} times that of the best fixed profile ({best}); streams refused or with an"
            f" underrun {_lost(ours):.1%} against {_lost(found[best][index]):.1%}"
        )
    return "\n".join(lines)


def _lost(one: Report) -> float:
    """Share of the streams that were refused, failed or had an underrun."""
    return (one.refused + one.failed + one.streams_with_underrun) / max(1, one.asked)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.one_configuration")
    parser.add_argument("--costs", default="hopper", help="name in services/llm/costs and services/decode/costs")
    parser.add_argument("--llm-costs", type=Path, help="cost file of the llm, instead of --costs")
    parser.add_argument("--decode-costs", type=Path, help="cost file of decode, instead of --costs")
    parser.add_argument("--loads", default=LOADS, help="shares of the capacity")
    parser.add_argument("--voice-seconds", type=float, default=8.0, help="audio of a session")
    parser.add_argument("--lengths", type=float, default=3.0, help="length of a load in lengths of a session")
    parser.add_argument("--sessions", type=int, default=60, help="least sessions of a load")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="file of the picture, .png or .svg")
    parser.add_argument("--top", type=float, default=1.0, help="end of the picture's axis of times, in seconds")
    return parser.parse_args()


if __name__ == "__main__":
    main()
