"""Loads: when requests are due, and what they ask for.

An open load sends each request when it is due, whether or not earlier ones have ended: at random times (Poisson) or at
those of a trace. A closed load keeps a number of requests under way. It sends less to a server that is slow, which
hides slow answers, but it is what most published tables use.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.bench.prompts import SETS, Prompt


class TraceError(ValueError):
    """A trace cannot be used; the message names the line."""


@dataclass(frozen=True)
class Load:
    """Requests that speak `prompts` in turn, with seeds from `seed` on. One of `rate`, `times` and `streams` is set."""

    prompts: Sequence[Prompt] = SETS["sentences"]
    seconds: float = 30.0
    """No request starts later."""
    rate: float = 0.0
    """Open: requests per second, at random times."""
    times: Sequence[float] = ()
    """Open: when requests are due, in seconds from the start."""
    streams: int = 0
    """Closed: requests under way at once."""
    seed: int = 0

    @property
    def name(self) -> str:
        """What distinguishes this load from others of a run."""
        if self.streams:
            return f"{self.streams} at once"
        return f"{self.rate:g}/s" if self.rate else "trace"

    def prompt(self, number: int) -> Prompt:
        """Return what request `number` speaks."""
        return self.prompts[number % len(self.prompts)]


def text_load(text: str, rate: float, seconds: float, seed: int = 0) -> Load:
    """Return an open load of one text."""
    return Load((Prompt(text),), seconds, rate, seed=seed)


def arrivals(load: Load) -> Iterator[float]:
    """Yield when the requests of an open load are due, in seconds from the start, none later than `load.seconds`."""
    if load.times:
        yield from (at for at in load.times if at < load.seconds)
        return
    clock = random.Random(load.seed)
    at = clock.expovariate(load.rate)
    while at < load.seconds:
        yield at
        at += clock.expovariate(load.rate)


def read_trace(path: Path) -> tuple[float, ...]:
    """Return the times of a trace, sorted, the first of them 0.

    Each line is a number of seconds, or a JSON object with `at`. Raises TraceError.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise TraceError(f"cannot read the trace {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TraceError(f"the trace {path} is not UTF-8 text") from error
    times = sorted(_time(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip())
    if not times:
        raise TraceError(f"the trace {path} has no times")
    return tuple(at - times[0] for at in times)


def _time(line: str, place: str) -> float:
    try:
        found = json.loads(line)
        at = float(found["at"] if isinstance(found, dict) else found)
    except (ValueError, KeyError, TypeError) as error:
        raise TraceError(f"{place}: needs a number of seconds, or an object with `at`") from error
    if not math.isfinite(at):
        raise TraceError(f"{place}: {at} is not a time")
    return at
