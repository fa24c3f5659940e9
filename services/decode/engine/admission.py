"""Whether one more stream can be taken on without making a playing one late, by measured service times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from services.decode.engine.service_time import ServiceTime

HEADROOM = 0.9
"""Share of the engine's time that streams may be promised; the rest is for what no average shows."""


@dataclass(frozen=True)
class Demand:
    """What a stream asks of the engine: `tokens` for its next hop by `deadline`, later hops of `hop_tokens`."""

    tokens: int
    deadline: float
    hop_tokens: int = 25
    listening: bool = True
    """Somebody hears it as it is made; offline work takes what time is left."""


def overload(
    now: float, streams: Sequence[Demand], new: Demand, times: ServiceTime, max_batch: int, token_rate: float
) -> str | None:
    """Why `new` must be refused, or None. Whoever comes first, and offline work, is always taken."""
    heard = [stream for stream in streams if stream.listening]
    if not times.known or not new.listening or not heard:
        return None
    share = busy_share([*heard, new], times, max_batch, token_rate)
    if share > HEADROOM:
        return f"{len(heard)} streams play here and one more would need {share:.0%} of this worker's time"
    late = first_late(now, heard, times)
    if late is None and first_late(now, [*heard, new], times, judged=len(heard)) is not None:
        return f"{len(heard)} streams play here and one of them would run dry while another one starts"
    return None


def busy_share(streams: Sequence[Demand], times: ServiceTime, max_batch: int, token_rate: float) -> float:
    """Share of the time that streams need once they all play, each one hop per hop's length of audio."""
    hop = max(stream.hop_tokens for stream in streams)
    batches = math.ceil(len(streams) / max_batch)
    base = times.seconds(())
    work = times.seconds(hop for _ in streams) - base
    return (batches * base + work) / (hop / token_rate)


def first_late(now: float, streams: Sequence[Demand], times: ServiceTime, judged: int | None = None) -> Demand | None:
    """The first of the first `judged` streams whose hop would end after its deadline, were they run by deadline."""
    promised = set(map(id, streams if judged is None else streams[:judged]))
    at = now
    for stream in sorted(streams, key=lambda stream: stream.deadline):
        at += times.seconds((stream.tokens,))
        if at > stream.deadline and id(stream) in promised:
            return stream
    return None
