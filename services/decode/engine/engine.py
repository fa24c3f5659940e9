"""The decode engine: one thread that picks hops, runs them and emits audio, turn after turn.

Callers on any thread open streams and push tokens; everything else happens in the engine thread, which takes callers'
commands between two batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace

import numpy as np

from services.common.engine.places import needs_place, places_taken
from services.common.engine.shell import EngineFull, EngineShell, ItemHandle
from services.common.engine.thread import EngineThread
from services.decode.engine.admission import least_hop, overload
from services.decode.engine.backends import Backend, Hop, HopAudio, check_tokens, run_canary, run_trials
from services.decode.engine.events import AudioEvent, EngineStats, Observer, OnEvent
from services.decode.engine.scheduler import (
    EngineLimits,
    Job,
    Moment,
    Order,
    Stream,
    deadline,
    pick,
    prompt_to_begin,
    ready_jobs,
    victims,
)
from services.decode.engine.service_time import ExtraWork, ServiceTime
from services.decode.engine.state import NO_WEIGHTS, ResumeRecord, StreamError, StreamSpec

Handle = ItemHandle[Stream, AudioEvent]
"""An open stream, as its caller names it to the engine."""


class DecodeEngine(EngineShell[Stream, AudioEvent, EngineStats]):
    """Turns tokens of many streams into audio over one backend. Thread-safe; owns one thread."""

    def __init__(
        self,
        backend: Backend,
        limits: EngineLimits | None = None,
        order: Order = deadline,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
        weights: bytes = NO_WEIGHTS,
        thread: Callable[..., EngineThread] | None = None,
    ) -> None:
        """`weights` is the hash of the backend's weights, for the records that other workers may resume from. `thread`
        makes the engine's thread, which a simulation replaces."""
        self.limits = limits or EngineLimits()
        self.steps = 0
        """Grows while the engine is alive: each turn, idle ones included, and each Euler step within a batch."""
        make = thread or EngineThread
        own_thread = make("decode-engine", self._turn, self._end, self.limits.heartbeat_s, backend.device)
        super().__init__(own_thread, StreamError)
        self._backend, self._order, self._clock = backend, order, clock
        self._observer = observer or Observer()
        self._weights = weights
        self._times, self._extra = ServiceTime(), ExtraWork()
        self._least_hop = 0
        """Smallest hop that the load allows, in tokens; a stream's policy may have larger ones."""
        self._busy_s = self._underrun_s = 0.0
        self._busy_until: float | None = None
        """When the latest batch ended, if the engine has had work since."""
        self._ready: list[Job] = []
        self._batch: list[Job] = []
        own_thread.start()

    def open(self, spec: StreamSpec, on_event: OnEvent) -> Handle:
        """Open a stream. `on_event` is called from the engine thread and must not block.

        The last event of a stream is an AudioEvent with `last` or a FailedEvent; no event follows a cancel that has
        taken effect. Raises StreamError (bad spec), RecordMismatch (a record of other weights or of another version),
        EngineFull (try another worker, or later), EngineClosed.
        """
        self._backend.check(spec)
        stream = Stream(spec, self._clock(), spec.plan)
        if spec.resume:
            record = ResumeRecord.from_bytes(spec.resume)
            record.check_weights(self._weights)
            stream.plan, stream.done = record.plan, record.done
            stream.emitted = stream.acknowledged = record.emitted * self._backend.format.frame_samples
        handle = Handle(stream, on_event)
        self._add(handle)
        self._thread.post(lambda: None)  # an idle engine computes the prompt of a new voice now
        return handle

    def _admit(self, item: Stream) -> None:
        """Raise EngineFull if a new session meets a limit of sessions, or would make a playing stream late."""
        live = [stream for stream in self._live if not stream.closed]  # a cancelled one ends before the next batch
        places = [stream.spec.place for stream in live]
        if not needs_place(item.spec.place, places):
            return
        now = self._clock()
        taken = places_taken(places)
        if taken >= self.limits.max_streams:
            raise EngineFull(f"{taken} sessions are open, which is this engine's limit")
        queued = places_taken(stream.spec.place for stream in live if stream.awaits_first_audio(now))
        if queued >= self.limits.max_queue:
            raise EngineFull(f"{queued} sessions wait for audio, which is the queue's limit")
        if not self.limits.admission:
            return
        moment = self._moment(now, self._next_least_hop(live))
        why = overload(
            now,
            [moment.demand(stream) for stream in live],
            moment.demand(item),
            self._times,
            self._extra,
            self.limits.max_batch,
            item.spec.hops.token_rate,
        )
        if why is not None:
            raise EngineFull(why)

    def measure(self) -> Future[None]:
        """Run a few synthetic hops, so that admission has service times from the first stream on.

        The future ends with them, or has what the backend raised. Call it before the first stream.
        """
        measured: Future[None] = Future()

        def run() -> None:
            try:
                run_trials(self._backend, self._times, self._clock, self._beat)
            except Exception as error:  # noqa: BLE001 - devices raise many types; the caller gets the error
                measured.set_exception(error)
            else:
                measured.set_result(None)

        self._thread.post(run)
        return measured

    def push(self, handle: Handle, tokens: Sequence[int], last: bool = False) -> None:
        """Add generated tokens; with `last` none follow (then `tokens` may be empty).

        Ids outside the vocabulary, tokens after the last one and utterances that are too long fail the stream with a
        StreamError event. Do nothing if the stream has ended.
        """
        ids = [int(token) for token in tokens]
        handle.item.fed_at = self._clock()  # at once, so that `open` counts it as queued
        self._thread.post(lambda: self._guarded(handle, lambda: self._take(handle, ids, last)))

    def report_position(self, handle: Handle, seconds_played: float) -> None:
        """Set the present playback position; hops and deadlines follow it instead of the clock."""
        now = self._clock()
        self._thread.post(lambda: setattr(handle.item, "played", (seconds_played, now)))

    def evict_voice(self, voice: str) -> None:
        """Evict the computed prompt of a voice; streams that use it keep theirs."""
        self._thread.post(lambda: self._backend.evict_voice(voice))

    def acknowledge(self, handle: Handle, samples: int) -> None:
        """Report that the audio before absolute sample `samples` has been sent.

        A stream with more than `max_unread_s` of unacknowledged audio pauses, so that a slow reader holds it back.
        """
        self._thread.post(lambda: setattr(handle.item, "acknowledged", max(samples, handle.item.acknowledged)))

    def _end(self) -> None:
        self._ready, self._batch = [], []
        super()._end()

    def _release(self, item: Stream) -> None:
        item.state = None

    def _turn(self) -> bool:
        """Run one batch; false if there was nothing to run."""
        self._canary_due = True
        with self._thread.lock:
            streams = list(self._live)
        self._least_hop = self._next_least_hop(streams)
        moment = self._moment(self._clock(), self._least_hop)
        self._ready = ready_jobs(streams, moment)
        self._batch = pick(self._ready, self._order, moment)
        if not self._batch:
            self._busy_until = None
            self._begin_prompt(streams)
        self._step(self._batch)
        self._beat()
        return bool(self._batch)

    def _moment(self, now: float, least: int = 0) -> Moment:
        return Moment(now, self._backend.format, self.limits, self._times, self._kept, least)

    def _next_least_hop(self, streams: Sequence[Stream]) -> int:
        """Return the smallest hop that leaves time for one more stream; the hops grow before it comes, not after."""
        playing = [stream for stream in streams if not stream.closed and not stream.spec.offline]
        if not playing or not self.limits.admission:
            return 0
        hops, limits = playing[0].spec.hops, self.limits
        return least_hop(
            len(playing) + 1,
            hops.sizes,
            self._least_hop,
            self._times,
            self._extra,
            limits.max_batch,
            hops.token_rate,
            limits.first_audio_s,
        )

    def _begin_prompt(self, streams: Sequence[Stream]) -> None:
        """Compute the prompt of a new voice before the stream's first tokens arrive."""
        now = self._clock()
        stream = prompt_to_begin(streams, self._moment(now))
        if stream is None:
            return
        stream.begun = True
        try:
            stream.state = self._backend.open(stream.spec)
            self._backend.begin(stream.state, self._beat)
        except Exception:  # noqa: BLE001 - the first hop computes the same, and fails the stream if it cannot
            stream.state = None
        self._busy_s += self._clock() - now

    def _kept(self, stream: Stream) -> int:
        """Return the number of the stream's first tokens that need not be computed. Any thread may call it."""
        if (state := stream.state) is not None:
            return self._backend.cached_tokens(state)
        return self._backend.prompt_tokens(stream.spec.voice, stream.plan)

    def _run_canary(self) -> None:
        run_canary(self._backend, self._beat)

    def _beat(self) -> None:
        self.steps += 1

    def _step(self, batch: list[Job]) -> None:
        if not batch:
            return
        began, free_at = self._clock(), self._busy_until
        results = self._execute(batch)
        self._busy_until = ended = self._clock()
        seconds = ended - began
        self._busy_s += seconds
        self._counts["batches"] += 1
        # With the time since the batch before, which the process spent between the two.
        self._times.observe(
            len(batch), sum(job.tokens for job in batch), ended - (began if free_at is None else free_at)
        )
        self._observer.batch(len(batch), seconds)
        for job, result in results:
            handle = self._live.get(job.stream)
            if handle is None or job.stream.closed:
                continue
            if isinstance(result, Exception):
                self._fail(handle, result)
            else:
                self._advance(handle, job, result)

    def _execute(self, batch: list[Job]) -> list[tuple[Job, HopAudio | Exception]]:
        """Run a batch; if it fails, run its hops one by one so that only the ones that cause it fail."""
        try:
            hops = [self._hop(job) for job in batch]
            self._make_room(batch, hops)
            return list(zip(batch, self._backend.run(hops, self._beat), strict=True))
        except Exception as error:  # noqa: BLE001 - no error of a model may end the loop that serves other streams
            if len(batch) == 1:
                return [(batch[0], error)]
        return [pair for job in batch for pair in self._execute([job])]

    def _hop(self, job: Job) -> Hop:
        stream = job.stream
        if stream.state is None:
            stream.state = self._backend.open(stream.spec)
        return Hop(stream.state, stream.tokens, job.end, job.final)

    def _make_room(self, batch: list[Job], hops: list[Hop]) -> None:
        """Evict states of streams that are far ahead until this batch has memory for its own states."""
        if self._backend.has_room(hops):
            return
        batched = {job.stream for job in batch}
        with self._thread.lock:
            others = [stream for stream in self._live if stream not in batched]
        urgent = min(batch, key=lambda job: job.deadline)
        for stream in victims(others, urgent, self._clock(), self._backend.format):
            self._counts["evicted_bytes"] += self._backend.evict(stream.state)
            self._counts["evictions"] += 1
            stream.state_bytes = 0
            if self._backend.has_room(hops):
                return

    def _advance(self, handle: Handle, job: Job, audio: HopAudio) -> None:
        """Update the stream by a hop's audio and emit the audio."""
        stream = job.stream
        self._counts["hops"] += 1
        self._counts["tokens_decoded"] += job.end - min(stream.done, job.end)
        self._counts["samples"] += audio.samples.shape[0]
        if not stream.spec.offline:
            seconds = audio.samples.shape[0] / self._backend.format.sample_rate
            hops = stream.spec.hops.at_least(self._least_hop)
            self._extra.observe(seconds, job.tokens, hops.sizes[0], hops.token_rate)
        stream.done, stream.advanced_at, stream.ready_since = job.end, self._clock(), None
        self._update_playback(stream, audio)
        stream.sounded |= audio.samples.shape[0] > 0
        stream.state_bytes = self._backend.state_bytes(stream.state)
        stream.emitted = audio.first_sample + audio.samples.shape[0]
        last = job.final and stream.done == stream.available
        if last:
            self._drop(handle, "finished")
        if last or audio.samples.shape[0]:
            spoken = int(audio.record.emitted * stream.spec.speed) // self._backend.format.frames_per_token
            spoken = len(stream.tokens) if last else min(spoken, len(stream.tokens))
            record = replace(audio.record, weights=self._weights).to_bytes()
            self._emit(handle, AudioEvent(audio.first_sample, audio.samples, record, spoken, last))

    def _update_playback(self, stream: Stream, audio: HopAudio) -> None:
        """Update the playback clock by new audio: it starts, continues after a gap, or gains lead."""
        now, rate = stream.advanced_at, self._backend.format.sample_rate
        if not audio.samples.shape[0] or stream.spec.offline:
            return
        if stream.played is None:
            stream.played = (audio.first_sample / rate, max(now, stream.spec.play_at or now))
            self._observer.first_audio(now - stream.arrival)
            return
        dry = stream.dry(now, rate)
        self._observer.lead(stream.lead(now, rate))
        if dry > 0:
            self._underrun_s += dry
            self._counts["underruns"] += 1
            stream.played = (stream.emitted / rate, now)  # the listener waited at the end of the previous audio

    def _take(self, handle: Handle, tokens: list[int], last: bool) -> None:
        stream, audio = handle.item, self._backend.format
        if stream.ended:
            raise StreamError("tokens were pushed after the last one; open a new stream for a new utterance")
        check_tokens(tokens, audio.vocab_size)
        if stream.available + len(tokens) > audio.max_tokens:
            raise StreamError(f"an utterance may hold {audio.max_tokens} tokens, prompt included; split the text")
        stream.tokens += tokens
        stream.ended = last
        if last and stream.done > stream.available:
            raise StreamError("the resume record is ahead of the tokens; push every token from the utterance's first")
        if last and stream.done >= stream.available:  # nothing is left to decode, so no hop reports the end
            self._drop(handle, "finished")
            empty = np.zeros(0, np.float32)
            self._emit(handle, AudioEvent(stream.emitted, empty, stream.spec.resume, len(stream.tokens), True))

    def stats(self) -> EngineStats:
        now = self._clock()
        with self._thread.lock:
            streams = list(self._live)
        queued = [stream for stream in streams if stream.queued]
        return EngineStats(
            streams=len(streams),
            queued=len(queued),
            queued_offline=sum(stream.spec.offline for stream in queued),
            ready=len(self._ready),
            batch_size=len(self._batch),
            state_bytes=sum(stream.state_bytes for stream in streams),
            busy_s=self._busy_s,
            underrun_s=self._underrun_s,
            oldest_s=_oldest(queued, now, offline=False),
            oldest_offline_s=_oldest(queued, now, offline=True),
            offline=sum(stream.spec.offline for stream in streams),
            backend=self._backend.counts(),
            **self._counts,
        )


def _oldest(queued: Sequence[Stream], now: float, *, offline: bool) -> float:
    """Longest wait of the queued streams that are offline, or of those that are interactive, in seconds."""
    return max((now - (stream.fed_at or now) for stream in queued if stream.spec.offline == offline), default=0.0)
