"""The engine's state of a stream, and the choice of the streams that decode next."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.common.checkpoint.chunk_plan import ChunkPlan
from services.decode.engine.admission import Demand
from services.decode.engine.backends import AudioFormat
from services.decode.engine.service_time import ServiceTime
from services.decode.engine.state import StreamSpec

OFFLINE_PATIENCE_S = 30.0
"""Longest wait of offline work for its next hop behind interactive streams, before it counts as due."""
EVICTION_LEAD_S = 2.0
"""How much larger than another stream's lead a stream's lead must be for the other to evict its state."""


@dataclass(frozen=True)
class EngineLimits:
    """Limits of one engine."""

    max_streams: int = 32
    """Sessions with open streams; at this number a new session is refused (other servers call it decode_paral_num)."""
    max_queue: int = 10
    """Sessions that may wait for their first audio; at this number a new session is refused."""
    max_batch: int = 1
    """Hops of different streams decoded as one batch. On a CPU a batch of one is as fast and starts sooner."""
    first_audio_s: float = 0.5
    """Target time from a stream's opening to its first audio: its deadline if the caller gives none."""
    admission: bool = True
    """Refuse a stream that, according to measured service times, would make a playing one late."""
    heartbeat_s: float = 0.1
    """An idle engine takes a turn at least this often, so that its step counter distinguishes it from a hung one."""

    def __post_init__(self) -> None:
        if min(self.max_streams, self.max_queue, self.max_batch) < 1:
            raise ValueError("max_streams, max_queue and max_batch must be at least 1")
        if self.heartbeat_s <= 0 or self.first_audio_s <= 0:
            raise ValueError("heartbeat_s and first_audio_s must be positive")


@dataclass(eq=False)
class Stream:
    """One utterance in the engine; only the engine's thread changes it, except `closed` and `fed_at`."""

    spec: StreamSpec
    arrival: float
    plan: ChunkPlan
    prompt: int = field(init=False)
    """Tokens of the voice's prompt."""
    done: int = 0
    """Tokens decoded, prompt included; of a resumed stream, those of its previous worker too."""
    emitted: int = 0
    """Absolute samples made, including those of a previous worker."""
    tokens: list[int] = field(default_factory=list, repr=False)
    ended: bool = False
    """Whether no token follows."""
    state: Any = field(default=None, repr=False)
    begun: bool = False
    """Whether its voice's prompt need not be computed before its first hop."""
    state_bytes: int = 0
    closed: bool = False
    """Cancelled, finished or failed: nothing more is reported."""
    acknowledged: int = 0
    """Absolute samples that the caller has sent."""
    sounded: bool = False
    """Whether this engine has made audio of it; of a resumed stream, a previous worker has."""
    played: tuple[float, float] | None = None
    """(seconds played, time of the report): from the client, or 0 when the first audio is played."""
    fed_at: float | None = None
    """Time of the last push of tokens, processed or not."""
    advanced_at: float = 0.0
    """End time of the latest hop."""
    ready_since: float | None = None
    """Time since which the next hop can run; None while it cannot."""

    def __post_init__(self) -> None:
        self.prompt = int(self.spec.prompt_tokens.shape[0])

    @property
    def available(self) -> int:
        """Absolute tokens known, prompt included."""
        return self.prompt + len(self.tokens)

    @property
    def queued(self) -> bool:
        """Whether it has tokens and waits for its first audio."""
        return self.fed_at is not None and not self.sounded and not self.closed

    @property
    def begins(self) -> bool:
        """Whether its audio will be the first of a session: late, it makes the listener wait and leaves no gap."""
        continues = self.played is not None or self.spec.place.admitted or bool(self.spec.resume)
        return not continues and not self.spec.offline

    def awaits_first_audio(self, now: float) -> bool:
        """Whether a listener waits for the stream's first audio: not if an earlier utterance of the session plays."""
        due = self.spec.deadline is not None and self.spec.deadline <= now
        return self.queued and (due or not self.spec.place.admitted)

    def lead(self, now: float, sample_rate: int) -> float:
        """Seconds of audio made beyond the present playback position; infinite for an offline stream.

        0 before this engine's first audio: how much of a previous worker's audio has not been played is not known.
        """
        if self.spec.offline:
            return math.inf
        return max(0.0, self._ahead(now, sample_rate))

    def dry(self, now: float, sample_rate: int) -> float:
        """Seconds since the listener ran out of audio; 0 while some is left."""
        return 0.0 if self.spec.offline else max(0.0, -self._ahead(now, sample_rate))

    def _ahead(self, now: float, sample_rate: int) -> float:
        if self.played is None:
            return 0.0
        position, at = self.played
        return self.emitted / sample_rate - (position + now - at)

    def unread(self, sample_rate: int) -> bool:
        """Whether it waits for its reader, who has not taken `max_unread_s` of audio."""
        limit = self.spec.max_unread_s
        return limit is not None and self.emitted - self.acknowledged >= limit * sample_rate


@dataclass(frozen=True)
class Job:
    """A hop that can run now."""

    stream: Stream
    end: int
    """Absolute token the hop decodes up to."""
    final: bool
    ready_since: float
    deadline: float
    """When its listener runs out of audio, or the first audio is due; for offline work, the end of its patience."""
    tokens: int = 0
    """Tokens to compute: more than the hop's own if the stream has lost its state."""
    service_s: float = 0.0
    """Expected duration of that."""


@dataclass(frozen=True)
class Moment:
    """What the engine knows of itself when it plans."""

    now: float
    audio: AudioFormat
    limits: EngineLimits
    times: ServiceTime
    kept: Callable[[Stream], int]
    """Returns the number of a stream's first tokens that need not be computed."""
    least: int = 0
    """The load's smallest hop, in tokens."""

    def demand(self, stream: Stream) -> Demand:
        """Return the stream's demand for admission: its next hop, whether or not its tokens are known yet."""
        hops, lead = stream.spec.hops.at_least(self.least), stream.lead(self.now, self.audio.sample_rate)
        end = hops.hop_end(stream.plan, stream.prompt, stream.done, lead, self.audio.held_frames)
        return Demand(end - self.kept(stream), self.deadline(stream), hops.sizes[0], not stream.spec.offline)

    def deadline(self, stream: Stream) -> float:
        """Return when the stream's listener runs out of audio; see `Job.deadline`."""
        if stream.spec.offline:
            return (stream.ready_since or self.now) + OFFLINE_PATIENCE_S
        if stream.played is not None:
            return self.now + stream.lead(self.now, self.audio.sample_rate)
        return stream.arrival + self.limits.first_audio_s if stream.spec.deadline is None else stream.spec.deadline


Order = Callable[[Job], tuple[float, ...]]
"""A sort key: the smallest runs first."""


def fifo(job: Job) -> tuple[float, ...]:
    """First ready, first served: every stream gets one hop before any stream gets another."""
    return (job.ready_since,)


def deadline(job: Job) -> tuple[float, ...]:
    """Earliest latest start time first. A stream far ahead of its listener waits for more urgent ones."""
    return (job.deadline - job.service_s,)


ORDERS: dict[str, Order] = {"deadline": deadline, "fifo": fifo}


def pick(jobs: Sequence[Job], order: Order, moment: Moment) -> list[Job]:
    """Return the next batch: the first jobs in order, as many as do not make the most urgent of them late.

    If that one is late in any case, the batch is filled: only throughput helps then. The first hop of a session waits
    while it would make a stream that plays late, whether or not that one is in the batch.
    """
    ranked, most, times = sorted(jobs, key=order), moment.limits.max_batch, moment.times
    if order is fifo:
        return ranked[:most]
    playing = sorted((job for job in ranked if not job.stream.begins), key=lambda job: job.deadline)
    batch: list[Job] = []
    ends = moment.now
    may_begin = True
    for job in ranked:
        if len(batch) == most:
            break
        if job.stream.begins and not may_begin:
            continue
        longer = moment.now + times.seconds(mate.tokens for mate in (*batch, job))
        if job.stream.begins and _turns_late(playing, batch, ends, longer, moment):
            may_begin = False  # further ones would make the same stream late
            continue
        if any(ends <= mate.deadline < longer for mate in batch):
            break
        batch.append(job)
        ends = longer
    return batch


def _turns_late(playing: Sequence[Job], batch: Sequence[Job], ends: float, longer: float, moment: Moment) -> bool:
    """Return whether one of the jobs, ordered by deadline, is late if the batch ends at `longer`, not at `ends`.

    Those that are not in the batch run after it, in full batches.
    """
    times, most = moment.times, moment.limits.max_batch
    shared = times.seconds(())
    after, count = 0.0, 0
    for job in playing:
        own = 0.0
        if job not in batch:
            after += times.seconds((job.tokens,)) - (shared if count % most else 0.0)
            own, count = after, count + 1
        if ends + own <= job.deadline < longer + own:
            return True
    return False


def ready_jobs(streams: Collection[Stream], moment: Moment) -> list[Job]:
    """Return the hops that can run now, in no particular order; set `ready_since` of each stream."""
    jobs = []
    wanted: list[tuple[Stream, Demand]] = []  # computed once, and only if a first hop is ready
    for stream in streams:
        end = None if stream.closed else next_hop_end(stream, moment.now, moment.audio, moment.least)
        if end is None:
            stream.ready_since = None
            continue
        if stream.ready_since is None:
            stream.ready_since = max(stream.fed_at or stream.arrival, stream.advanced_at)
        may_grow = stream.played is None and not stream.spec.offline
        longer = _longer_first_hop_end(stream, end, moment.audio) if may_grow else None
        if longer is not None:
            wanted = wanted or [(one, moment.demand(one)) for one in streams if not one.closed]
            if not _lasts(stream, end, wanted, moment):
                end = longer
        tokens = end - moment.kept(stream)
        seconds = moment.times.seconds((tokens,))
        jobs.append(Job(stream, end, stream.ended, stream.ready_since, moment.deadline(stream), tokens, seconds))
    return jobs


def next_hop_end(stream: Stream, now: float, audio: AudioFormat, least: int = 0) -> int | None:
    """Return the end of the stream's next hop, or None while it lacks tokens or its reader is too slow.

    A hop grows to `least` tokens as far as they are known: it does not wait for more than it would need without load.
    """
    if stream.unread(audio.sample_rate):
        return None
    available = stream.available
    known = stream.plan.boundary_at_or_before(available - audio.lookahead_tokens)
    if stream.done >= (available if stream.ended else known):  # of most streams: not even the next chunk is known
        return None
    policy, lead = stream.spec.hops, stream.lead(now, audio.sample_rate)
    where = stream.plan, stream.prompt, stream.done, lead, audio.held_frames
    larger = policy.at_least(least)
    grown = larger.hop_end(*where)
    if stream.ended:
        return min(grown, available)
    end = grown if larger is policy else max(policy.hop_end(*where), min(grown, known))
    return end if end + audio.lookahead_tokens <= available else None


def _longer_first_hop_end(stream: Stream, end: int, audio: AudioFormat) -> int | None:
    """Return the end of a first hop that is one chunk longer than `end`, or None if there is none.

    Its tokens are known: a first hop never waits for more of them. It stays within the size of later hops, apart from
    the prompt's complete chunks.
    """
    sizes, longer = stream.spec.hops.sizes, stream.plan.boundary_at_or_after(end + 1)
    shared = stream.plan.boundary_at_or_before(stream.prompt - audio.lookahead_tokens)
    if len(sizes) == 1 or longer - shared > sizes[-1]:  # with one size, one chunk per hop was configured
        return None
    if stream.ended:
        return min(longer, stream.available) if end < stream.available else None
    return longer if longer + audio.lookahead_tokens <= stream.available else None


def _lasts(stream: Stream, end: int, wanted: Sequence[tuple[Stream, Demand]], moment: Moment) -> bool:
    """Whether the audio of a first hop up to `end` lasts until the next hop is decoded, by measured service times.

    Before that one, the engine decodes the hops that other streams need sooner, in full batches; that one may be in a
    full batch too.
    """
    audio, times, most = moment.audio, moment.times, moment.limits.max_batch
    policy = stream.spec.hops
    first_s = times.seconds((end - moment.kept(stream),))
    new = end - max(stream.prompt, stream.done)
    frames = new * audio.frames_per_token - (audio.held_frames if stream.done <= stream.prompt else 0)
    lead = frames * audio.frame_samples / audio.sample_rate / stream.spec.speed
    dry = max(moment.now + first_s, stream.spec.play_at or moment.now) + lead
    before = [one.tokens for other, one in wanted if other is not stream and one.deadline < dry]
    following = stream.plan.boundary_at_or_after(end + policy.sizes[0]) - end
    batches = -(-len(before) // most)
    others_s = times.seconds(before) + (batches - 1) * times.seconds(()) if before else 0.0
    together = min(most, len(wanted))
    return moment.now + first_s + others_s + times.seconds([following] * together) <= dry


def prompt_to_begin(streams: Sequence[Stream], moment: Moment) -> Stream | None:
    """Return a stream whose voice's prompt an idle engine should compute, while its first tokens are generated.

    Return None if there is none, or if this would make the next hop of a stream with another voice late.
    """
    for stream in streams:
        if stream.begun or stream.closed or stream.state is not None:
            continue
        shared = stream.plan.boundary_at_or_before(stream.prompt - moment.audio.lookahead_tokens)
        if not stream.spec.voice or shared <= moment.kept(stream):
            stream.begun = True
            continue
        free_at = moment.now + moment.times.seconds((shared,))
        others = (one for one in streams if not one.closed and one.spec.voice != stream.spec.voice)
        wanted = [moment.demand(one) for one in others]
        if all(free_at + moment.times.seconds((one.tokens,)) <= one.deadline for one in wanted):
            return stream
    return None


def victims(streams: Iterable[Stream], job: Job, now: float, audio: AudioFormat) -> list[Stream]:
    """Return the streams whose state may be evicted for the job, in order.

    First offline ones and those that wait for their readers, then those with the largest lead.
    A stream with a large lead decodes in long hops, so recomputing costs it least. Streams with similar leads never
    evict each other, otherwise all of them would recompute repeatedly.
    """

    def spare(stream: Stream) -> float:
        return math.inf if stream.unread(audio.sample_rate) else stream.lead(now, audio.sample_rate)

    own = job.stream.lead(now, audio.sample_rate) + EVICTION_LEAD_S
    found = [stream for stream in streams if stream.state_bytes and spare(stream) > own]
    return sorted(found, key=spare, reverse=True)
