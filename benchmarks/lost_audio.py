"""Audio lost, repeated and late when workers are killed under load: ours and the ways of other servers, simulated.

    python -m benchmarks.lost_audio [--costs guided-cpu] [--plot FILE]

The benchmark kills a decode worker and an llm worker alternately; a new worker replaces each one some seconds later.
Our services continue a lost utterance on another worker. Servers without such a state have three other policies:

  end     the stream ends
  repeat  another worker makes the audio of the whole text; its beginning is sent twice
  skip    the text is spoken again, and the gateway drops the audio that it has sent; this needs the same audio from
          the same text

All policies run the same simulated services with the same arrivals and kills. A load of 1 is the number of streams that
would keep all decode workers busy all the time.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.simulator.command import quiet
from cli.simulator.plan import Bounds, Need
from cli.simulator.scenario import make_scenario
from cli.simulator.simulation import Result, simulate

SERVICES = Path(__file__).parents[1] / "services"
POLICIES: Mapping[str, str] = {
    "resume (ours)": "resume",
    "restart, drop what was sent": "skip",
    "restart": "repeat",
    "end the stream": "end",
}
"""The scenario's `on_loss`."""
PER = 1000
"""Figures are per this number of kills."""


@dataclass(frozen=True)
class Losses:
    """What listeners noticed, per 1,000 events. Times in seconds."""

    lost: float
    """Audio of accepted streams that was never sent."""
    repeated: float
    """Audio that was sent twice."""
    gap: float
    """Silence within streams, while a listener without a buffer waited for audio."""
    cut: float
    """Streams that ended with an error."""
    refused: float
    """Share of the sessions that were refused at their start."""

    @classmethod
    def of(cls, found: Result, events: int, whole: float) -> Losses:
        """Return those of a load with a number of events, whose sessions have `whole` seconds of audio."""
        heard = [one for one in found.sessions if not one.outcome.refused]
        times = PER / max(1, events)
        return cls(
            lost=times * sum(max(0.0, whole - one.outcome.audio_seconds + one.repeated) for one in heard),
            repeated=times * sum(one.repeated for one in heard),
            gap=times * sum(one.outcome.answer.playback.silence for one in heard),
            cut=times * found.report.failed,
            refused=found.report.refused / max(1, found.report.asked),
        )

    def cell(self) -> str:
        """Return seconds lost, repeated and silent, and the streams cut."""
        return (
            f"{self.lost:,.0f} / {self.repeated:,.0f} / {self.gap:,.0f}{f', {self.cut:,.0f} cut' if self.cut else ''}"
        )


@dataclass(frozen=True)
class Trial:
    """Workers, and what happens to them."""

    need: Need
    workers: int
    """Decode workers; there are enough llm workers for all streams."""
    seconds: float
    interval: float
    """Seconds between two events; none happens before the first session has ended."""
    start_seconds: float
    """Time until a worker that replaces another one serves."""
    freeze_seconds: float = 2.0

    def changes(self, action: str) -> list[dict[str, Any]]:
        """Return the events, to decode and to llm workers alternately."""
        found: list[dict[str, Any]] = []
        count = int((self.seconds - self.need.voice_seconds) / self.interval)
        for number in range(count):
            change = {"at": self.need.voice_seconds + number * self.interval, "service": ("decode", "llm")[number % 2]}
            found.append(
                {**change, "action": action, **({"seconds": self.freeze_seconds} if action == "freeze" else {})}
            )
            if action != "freeze":
                found.append({**change, "action": "add"})
        return found

    def run(self, load: float, on_loss: str, changes: Sequence[Mapping[str, Any]]) -> Result:
        """Simulate a load."""
        bounds = Bounds.of(self.need)
        streams = load * self.workers * bounds.decode
        fields = {
            "decode_workers": self.workers,
            "llm_workers": 1 + max(2, math.ceil(self.workers * bounds.decode / bounds.llm)),
            "seconds": self.seconds,
            "start_seconds": self.start_seconds,
            "changes": changes,
            "on_loss": on_loss,
        }
        return simulate(make_scenario(self.need.scenario(streams / self.need.voice_seconds, **fields)))

    def compare(self, load: float, action: str) -> dict[str, Losses]:
        """Return the losses of each policy, and print them."""
        calm = self.run(load, "resume", [])
        whole = max(one.outcome.audio_seconds for one in calm.sessions)
        without = Losses.of(calm, PER, whole)
        print(
            f"load {load:g}: {calm.report.asked} sessions, at most {calm.most_streams} at once; without events", end=""
        )
        print(f" {without.gap:.1f} s of gaps, {without.refused:.1%} refused", flush=True)
        changes = self.changes(action)
        events = sum(change["action"] == action for change in changes)
        found = {}
        for name, on_loss in POLICIES.items():
            result = self.run(load, on_loss, changes)
            found[name] = Losses.of(result, events, whole)
            moved = f"{result.moves} moves or restarts, {found[name].refused:.1%} refused"
            print(f"load {load:g}, {events} x {action}, {name:<28} {found[name].cell()}; {moved}", flush=True)
        return found


def main() -> None:
    options = arguments()
    quiet()
    need = Need(
        streams=1,
        voice_seconds=options.voice_seconds,
        first_audio=1.0,
        llm_costs=str(SERVICES / "llm" / "costs" / f"{options.costs}.json"),
        decode_costs=str(SERVICES / "decode" / "costs" / f"{options.costs}.json"),
        prompt_seconds=3.0,
        seed=options.seed,
    )
    trial = Trial(need, options.workers, options.seconds, options.interval, options.start)
    each = Bounds.of(need).decode
    print(
        f"a load of 1: {options.workers * each:.0f} streams of {options.voice_seconds:g} s on {options.workers} workers"
    )
    began = time.process_time()
    loads = [float(load) for load in options.loads.split(",")]
    kills = {load: trial.compare(load, "kill") for load in loads}
    rows = {f"{load:g}": found for load, found in kills.items()}
    for action, name in (("drain", "drains"), ("freeze", f"freezes of {trial.freeze_seconds:g} s")):
        rows[f"{options.other:g}, {name}"] = trial.compare(options.other, action)
    print(table(rows))
    print(f"simulated in {time.process_time() - began:.0f} s of processor time")
    if options.plot is not None:
        plot(kills, options.plot)


def table(rows: Mapping[str, Mapping[str, Losses]]) -> str:
    """Return the Markdown table: a row per load, a column per policy."""
    lines = [["load", *POLICIES], ["---"] * (1 + len(POLICIES))]
    lines += [[name, *(found[policy].cell() for policy in POLICIES)] for name, found in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(found: Mapping[float, Mapping[str, Losses]], path: Path) -> None:
    """Draw the seconds lost, repeated and silent over the load; the file's ending chooses the format."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SystemExit("pictures need matplotlib: pip install 'light-tts[plot]'") from None
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    titles = {"lost": "never sent", "repeated": "sent twice", "gap": "silence"}
    for axes, (field, title) in zip(figure.subplots(1, 3, sharey=True), titles.items(), strict=True):
        for name, marker in zip(POLICIES, "os^x", strict=True):
            axes.plot(list(found), [getattr(one[name], field) for one in found.values()], label=name, marker=marker)
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("load")
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
        if field == "lost":
            axes.set_ylabel("seconds of audio per 1,000 kills")
            axes.legend(fontsize="small")
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise SystemExit(f"cannot write {path}: {error}") from error


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lost_audio")
    parser.add_argument("--costs", default="guided-cpu", help="name in services/llm/costs and services/decode/costs")
    parser.add_argument("--loads", default="0.3,0.5,0.7,0.9", help="shares of the capacity of all decode workers")
    parser.add_argument("--other", type=float, default=0.7, help="load of the drains and freezes")
    parser.add_argument("--workers", type=int, default=10, help="decode workers")
    parser.add_argument("--voice-seconds", type=float, default=8.0, help="audio of a session")
    parser.add_argument("--seconds", type=float, default=48.0, help="length of a load")
    parser.add_argument("--interval", type=float, default=4.0, help="seconds between two kills, drains or freezes")
    parser.add_argument("--start", type=float, default=5.0, help="seconds until the worker that replaces one serves")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="file of the picture, .png or .svg")
    return parser.parse_args()


if __name__ == "__main__":
    main()
