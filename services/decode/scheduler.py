"""A stream as the engine sees it, and which streams decode next."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from services.decode.backends import AudioFormat
from services.decode.chunks import ChunkPlan
from services.decode.state import StreamSpec


@dataclass(frozen=True)
class EngineLimits:
    """What one engine takes on."""

    max_streams: int = 32
    """Streams open at once; one more is refused."""
    max_queue: int = 10
    """Streams that may wait for their first audio; while so many do, a new one is refused."""
    max_batch: int = 1
    """Hops of different streams decoded as one batch. On a CPU one at a time is as fast and starts sooner."""
    first_audio_s: float = 0.5
    """Target from a stream's opening to its first audio: its deadline when the caller names none."""
    heartbeat_s: float = 0.1
    """An idle engine turns at least this often, so that its step counter tells a live loop from a hung one."""

    def __post_init__(self) -> None:
        if min(self.max_streams, self.max_queue, self.max_batch) < 1:
            raise ValueError("max_streams, max_queue and max_batch must be at least 1")
        if self.heartbeat_s <= 0 or self.first_audio_s <= 0:
            raise ValueError("heartbeat_s and first_audio_s must be positive")


@dataclass(eq=False)
class Stream:
    """One utterance on its way through the engine; only the engine's thread changes it, but for `closed`."""

    spec: StreamSpec
    arrival: float
    plan: ChunkPlan
    done: int = 0
    """Tokens decoded, prompt included; for a resumed stream, decoded by its former worker."""
    emitted: int = 0
    """Absolute samples made, those of a former worker included."""
    tokens: list[int] = field(default_factory=list, repr=False)
    ended: bool = False
    """No token follows."""
    state: Any = field(default=None, repr=False)
    state_bytes: int = 0
    closed: bool = False
    """Cancelled, finished or failed: nothing more is reported."""
    acknowledged: int = 0
    """Absolute samples the caller has taken on."""
    played: tuple[float, float] | None = None
    """(seconds played, when that was): reported by the client, or 0 at the first audio."""
    fed_at: float | None = None
    """When tokens were last pushed, taken or not."""
    advanced_at: float = 0.0
    """When the latest hop ended."""
    ready_since: float | None = None
    """Since when the next hop could have run; None while it cannot."""

    @property
    def prompt(self) -> int:
        return int(self.spec.prompt_tokens.shape[0])

    @property
    def available(self) -> int:
        """Absolute tokens known, prompt included."""
        return self.prompt + len(self.tokens)

    @property
    def queued(self) -> bool:
        """Waits for its first audio, tokens given."""
        return self.fed_at is not None and self.played is None and not self.closed

    def lead(self, now: float, sample_rate: int) -> float:
        """Seconds of audio made beyond what the listener has heard by now; endless when nobody listens."""
        if self.spec.offline:
            return math.inf
        made = self.emitted / sample_rate
        if self.played is None:
            return made
        position, at = self.played
        return made - min(made, position + now - at)


@dataclass(frozen=True)
class Job:
    """A hop that can run now."""

    stream: Stream
    end: int
    """Absolute token the hop decodes up to."""
    final: bool
    ready_since: float
    deadline: float
    """When its listener runs dry, or the first audio is due; endless for offline work."""


Order = Callable[[Job], tuple[float, ...]]
"""A sort key: the smallest runs first."""


def fifo(job: Job) -> tuple[float, ...]:
    """First ready, first served: every stream gets a hop before any gets its next."""
    return (job.ready_since,)


def ready_jobs(streams: Iterable[Stream], now: float, audio: AudioFormat, limits: EngineLimits) -> list[Job]:
    """The hops that could run at `now`, in no particular order; marks since when each stream has been ready."""
    jobs = []
    for stream in streams:
        end = None if stream.closed else next_hop_end(stream, now, audio)
        if end is None:
            stream.ready_since = None
            continue
        if stream.ready_since is None:
            stream.ready_since = max(stream.fed_at or stream.arrival, stream.advanced_at)
        jobs.append(Job(stream, end, stream.ended, stream.ready_since, _deadline(stream, now, audio, limits)))
    return jobs


def next_hop_end(stream: Stream, now: float, audio: AudioFormat) -> int | None:
    """Where the stream's next hop ends, or None while it lacks tokens or its reader lags behind."""
    limit = stream.spec.max_unread_s
    if limit is not None and stream.emitted - stream.acknowledged >= limit * audio.sample_rate:
        return None
    if stream.done >= stream.available:
        return None
    lead = stream.lead(now, audio.sample_rate)
    end = stream.spec.hops.hop_end(stream.plan, stream.prompt, stream.done, lead)
    if stream.ended:
        return min(end, stream.available)
    return end if end + audio.lookahead_tokens <= stream.available else None


def _deadline(stream: Stream, now: float, audio: AudioFormat, limits: EngineLimits) -> float:
    if stream.spec.offline:
        return math.inf
    if stream.played is not None:
        return now + stream.lead(now, audio.sample_rate)
    return stream.arrival + limits.first_audio_s if stream.spec.deadline is None else stream.spec.deadline
