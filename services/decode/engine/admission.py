"""Admission: whether one more stream would make a playing one late, according to measured service times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from services.decode.engine.service_time import ServiceTime

HEADROOM = 0.9
"""Largest share of the engine's time that admitted streams may need; the rest covers deviations from the mean."""


@dataclass(frozen=True)
class Demand:
    """Demand of a stream: `tokens` for its next hop by `deadline`, later hops of `hop_tokens`."""

    tokens: int
    deadline: float
    hop_tokens: int = 25
    listening: bool = True
    """Whether it is interactive; offline work uses the remaining time."""


def overload(
    now: float, streams: Sequence[Demand], new: Demand, times: ServiceTime, max_batch: int, token_rate: float
) -> str | None:
    """Return why `new` must be refused, or None. The first stream and offline work are always admitted."""
    playing = [stream for stream in streams if stream.listening]
    if not times.known or not new.listening or not playing:
        return None
    share = busy_share([*playing, new], times, max_batch, token_rate)
    if share > HEADROOM:
        return f"{len(playing)} streams play here and one more would need {share:.0%} of this worker's time"
    late = first_late(now, playing, times)
    if late is None and first_late(now, [*playing, new], times, judged=len(playing)) is not None:
        return f"{len(playing)} streams play here and one of them would run dry while another one starts"
    return None


def busy_share(streams: Sequence[Demand], times: ServiceTime, max_batch: int, token_rate: float) -> float:
    """Share of the time that streams need once all play: per stream one hop in the time that a hop's audio lasts."""
    hop = max(stream.hop_tokens for stream in streams)
    batches = math.ceil(len(streams) / max_batch)
    base = times.seconds(())
    work = times.seconds(hop for _ in streams) - base
    return (batches * base + work) / (hop / token_rate)


def first_late(now: float, streams: Sequence[Demand], times: ServiceTime, judged: int | None = None) -> Demand | None:
    """Of the first `judged` streams, return the first whose hop ends late if all run by deadline; None if none."""
    checked = set(map(id, streams if judged is None else streams[:judged]))
    at = now
    for stream in sorted(streams, key=lambda stream: stream.deadline):
        at += times.seconds((stream.tokens,))
        if at > stream.deadline and id(stream) in checked:
            return stream
    return None
