"""Shows figures: a line per load, a Markdown table, JSON, and a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from cli.bench.report import GAPS_MS, Report, Spread


class PlotError(Exception):
    """The picture cannot be drawn; the message says what to install."""


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f}" if math.isfinite(seconds) else "–"


def _spread(one: Spread) -> str:
    return " / ".join(map(_ms, (one.p50, one.p95, one.p99)))


def _share(value: float) -> str:
    return f"{value:.0%}" if math.isfinite(value) else "–"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


COLUMNS: dict[str, Callable[[Report], str]] = {
    "load": lambda one: one.load + ("" if one.valid else " (invalid: the load generator lagged)"),
    "streams": lambda one: _number(one.offered, 1),
    "requests": lambda one: str(one.asked),
    "refused": lambda one: str(one.refused),
    "failed": lambda one: str(one.failed),
    "first byte, ms": lambda one: _spread(one.first_byte),
    "first audio": lambda one: _spread(one.first_audio),
    "first audible": lambda one: _spread(one.first_audible),
    "underruns": lambda one: str(one.streams_with_underrun),
    **{
        f"C{gap}": (lambda one, gap=gap: _share(one.continuity[gap]))  # type: ignore[misc]
        for gap in GAPS_MS
    },
    "RTF": lambda one: _number(one.real_time_factor, 2),
    "audio s/s": lambda one: _number(one.audio_per_second, 1),
    "lag": lambda one: _ms(one.lag),
}
"""The table's columns. Times in milliseconds, the three of a column are p50 / p95 / p99."""
EXPLAINED = (
    "Times in milliseconds, p50 / p95 / p99 from the instant at which a request was due. streams: utterances that "
    "play at once. first audio: samples arrived; audible: the first one above -50 dBFS is played. underruns: streams "
    "in which a listener without a buffer had a gap. C50: streams whose longest gap is at most 50 ms. lag: p99 of the "
    "lateness of this program itself."
)


def table(reports: Sequence[Report]) -> str:
    """Return a Markdown table, and below it the server's account of the first audio if it gave one."""
    rows = [" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS)]
    rows += [" | ".join(cell(one) for cell in COLUMNS.values()) for one in reports]
    text = "\n".join(f"| {row} |" for row in rows) + "\n"
    split = [one for one in reports if one.split]
    if split:
        parts = list(split[0].split)
        rows = [
            " | ".join(["load", *(part.replace("_", " ") for part in parts)]),
            " | ".join(["---"] * (1 + len(parts))),
        ]
        rows += [" | ".join([one.load, *(_ms(one.split[part]) for part in parts)]) for one in split]
        text += "\nThe server's account of the first audio, medians in milliseconds:\n\n"
        text += "\n".join(f"| {row} |" for row in rows) + "\n"
    return text + "".join(f"\n{one.load}: {one.failed} failed: {one.failure}\n" for one in reports if one.failure)


LINE = "{:<12} {:>7} {:>8} {:>7} {:>6} {:>19} {:>19} {:>9} {:>5} {:>5} {:>9} {:>4}"
NAMES = ("load", "streams", "requests", "refused", "failed", "first audio", "first audible", "underruns", "C100", "RTF")
HEADER = LINE.format(*NAMES, "audio s/s", "lag")


def line(one: Report) -> str:
    """Return the figures of a load under `HEADER`, and below them what went wrong."""
    cells = [one.load, *(COLUMNS[name](one) for name in (*NAMES[1:], "audio s/s", "lag"))]
    wrong = "" if one.asked else "\n        no request was due within --seconds; use more"
    wrong += "" if one.valid else "\n        invalid: this program lagged; use fewer streams, or more machines"
    return LINE.format(*cells) + wrong + (f"\n        {one.failure}" if one.failure else "")


def as_json(reports: Sequence[Report]) -> str:
    """Return all figures as JSON; times in seconds, null where there is no value."""

    def clean(value: object) -> object:
        if isinstance(value, dict):
            return {name: clean(one) for name, one in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    found = [{**asdict(one), "offered": one.offered, "valid": one.valid} for one in reports]
    return json.dumps([clean(one) for one in found], indent=2) + "\n"


def require_plots() -> None:
    """Raise PlotError if no picture can be drawn."""
    if find_spec("matplotlib") is None:
        raise PlotError("pictures need matplotlib: pip install 'light-tts[plot]'")


def plot(curves: Mapping[str, Sequence[Report]], path: Path, top: float | None = None) -> None:
    """Draw first audio (p50, p95) and the share of streams with an underrun over the streams offered.

    The axis of times ends at `top` seconds. The file's ending chooses the format (.png, .svg, .pdf). Raises PlotError.
    """
    require_plots()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    times, gaps = figure.subplots(2, 1, sharex=True)
    for colour, (name, reports) in enumerate(curves.items()):
        ordered = sorted((one for one in reports if math.isfinite(one.offered)), key=lambda one: one.offered)
        streams = [one.offered for one in ordered]
        look = {"color": f"C{colour}", "marker": "o", "markersize": 4}
        times.plot(streams, [one.first_audio.p50 for one in ordered], label=f"{name} p50", linestyle="--", **look)
        times.plot(streams, [one.first_audio.p95 for one in ordered], label=f"{name} p95", **look)
        share = [100 * one.streams_with_underrun / max(1, one.asked) for one in ordered]
        gaps.plot(streams, share, label=name, **look)
    times.set_ylim(top=top)
    times.set_ylabel("first audio, seconds")
    gaps.set_ylabel("streams with a gap, %")
    gaps.set_xlabel("streams that play at once")
    for axes in (times, gaps):
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise PlotError(f"cannot write {path}: {error}") from error
