"""Admission: whether one more stream would make a playing one late, according to measured service times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from services.decode.engine.service_time import ExtraWork, ServiceTime

HEADROOM = 0.9
"""Largest share of the engine's time that admitted streams may need; the rest covers deviations from the mean."""
BLOCKING_HOPS = 2
"""Hops that may run before a more urgent one: the one in progress, and one begun just before the urgent one."""


@dataclass(frozen=True)
class Demand:
    """Demand of a stream: `tokens` for its next hop by `deadline`, later hops of `hop_tokens`."""

    tokens: int
    deadline: float
    hop_tokens: int = 25
    listening: bool = True
    """Whether it is interactive; offline work uses the remaining time."""


def overload(
    now: float,
    streams: Sequence[Demand],
    new: Demand,
    times: ServiceTime,
    extra: ExtraWork,
    max_batch: int,
    token_rate: float,
) -> str | None:
    """Return why `new` must be refused, or None. The first stream and offline work are always admitted."""
    playing = [stream for stream in streams if stream.listening]
    if not times.known or not new.listening or not playing:
        return None
    share = busy_share([*playing, new], times, extra, max_batch, token_rate)
    if share > HEADROOM:
        return f"{len(playing)} streams play here and one more would need {share:.0%} of this worker's time"
    if late_streams(now, playing, times, max_batch, [new]) > late_streams(now, playing, times, max_batch):
        return f"{len(playing)} streams play here and one of them would run dry while another one starts"
    return None


def least_hop(
    count: int,
    sizes: Sequence[int],
    in_force: int,
    times: ServiceTime,
    extra: ExtraWork,
    max_batch: int,
    token_rate: float,
    patience_s: float,
) -> int:
    """Return the smallest of `sizes` (tokens, ascending) with which a worker has time for `count` playing streams.

    Larger hops need fewer batches and let a new stream wait longer. So a size is not used if full batches of it would
    end the first hop of a new stream after `patience_s`; if no other suffices, return the largest that is used. The
    size `in_force` may stay: on a device that has become slower, smaller hops would be more work.
    """
    chosen = sizes[0]
    for size in sizes:
        waits = (BLOCKING_HOPS + 1) * times.seconds([size] * max_batch)
        if size > max(in_force, sizes[0]) and waits > patience_s:
            break
        chosen = size
        if not count or _share(count, size, extra.hops_if(size), times, extra, max_batch, token_rate) <= HEADROOM:
            break
    return chosen


def busy_share(
    streams: Sequence[Demand], times: ServiceTime, extra: ExtraWork, max_batch: int, token_rate: float
) -> float:
    """Share of the time that streams need once all play.

    That is per stream one full hop, and the extra work that speech has needed, in the time of a full hop's audio.
    """
    hop = max(stream.hop_tokens for stream in streams)
    return _share(len(streams), hop, extra.hops(hop), times, extra, max_batch, token_rate)


def _share(
    count: int, hop: int, hops: float, times: ServiceTime, extra: ExtraWork, max_batch: int, token_rate: float
) -> float:
    batches = math.ceil(count / max_batch)
    base = times.seconds(())
    fixed = batches * base + times.seconds([0] * count) - base
    tokens = times.seconds([hop] * count) - times.seconds([0] * count)
    return (fixed * hops + tokens * extra.tokens) / (hop / token_rate)


def late_streams(
    now: float, streams: Sequence[Demand], times: ServiceTime, max_batch: int, others: Sequence[Demand] = ()
) -> int:
    """Return how many of `streams` end their hop late if all run by deadline, the `others` with them.

    A batch takes the `max_batch` most urgent hops, which end together. The work begins after `BLOCKING_HOPS` full hops,
    since a hop that has begun is not interrupted.
    """
    ranked = [(stream.deadline, True, stream.tokens) for stream in streams]
    ranked += [(stream.deadline, False, stream.tokens) for stream in others]
    ranked.sort()
    longest = max((stream.hop_tokens for stream in streams), default=0)
    late, at = 0, now + BLOCKING_HOPS * times.seconds((longest,))
    for first in range(0, len(ranked), max_batch):
        batch = ranked[first : first + max_batch]
        at += times.seconds(tokens for _, _, tokens in batch)
        late += sum(counted and at > deadline for deadline, counted, _ in batch)
    return late
