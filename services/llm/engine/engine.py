"""The llm engine: one thread that schedules, runs and postprocesses, step after step.

Callers on any thread submit requests and get events; everything else happens in the engine thread, which takes
callers' commands between two steps. A failure stays with the sequence that caused it, and whatever ends a sequence
(its last token, an error, a cancel, closing) frees its K/V blocks through the one method `_drop`.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence as Ids
from dataclasses import dataclass

from services.common.checkpoint.model_dir import ModelDir
from services.common.engine.thread import EngineThread
from services.llm.engine.backends import Backend
from services.llm.engine.layout import RequestError
from services.llm.engine.scheduler import EngineLimits, Order, ScheduledSequence, Scheduler, fifo
from services.llm.engine.sequence import Event, FailedEvent, Request, Sequence, TokensEvent, check_text_ids

OnEvent = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step that ran, for whoever keeps statistics."""

    batch_size: int
    seconds: float
    model_steps: int
    """More than 1 when the backend drew several tokens per sequence in one go."""
    tokens: int
    prefill_tokens: int
    preemptions: int
    """Sequences that lost their blocks when the step was scheduled."""


OnStep = Callable[[StepReport], None]


class EngineFull(Exception):
    """The engine runs and queues as many sequences as its limits allow; try another worker, or later."""


class EngineClosed(Exception):
    """The engine was closed; no sequence runs any more."""


@dataclass(frozen=True)
class EngineStats:
    """The engine after its latest turn."""

    waiting: int = 0
    running: int = 0
    """Sequences that hold K/V blocks."""
    held: int = 0
    """Of those running, the ones that cannot run now: held back by their token budget, or awaiting text."""
    paused: int = 0
    """Sequences that could run and waited in the latest turn, being far ahead of their listeners."""
    kv_blocks_used: int = 0
    kv_blocks_total: int = 0
    batch_size: int = 0
    """Sequences in the latest turn; 0 when there was nothing to run."""
    model_steps: int = 0
    tokens_generated: int = 0
    prefill_tokens: int = 0
    preemptions: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0


class Handle:
    """A submitted request, as its submitter names it to the engine."""

    __slots__ = ("_on_event", "_sequence", "resumed")

    def __init__(self, sequence: Sequence, on_event: OnEvent) -> None:
        self._sequence = sequence
        self._on_event = on_event
        self.resumed = sequence.resumed
        """Ids to be spoken among the request's `resume_ids`, for which no event comes."""


class LlmEngine:
    """Continuous batching of speech-token generation over one backend. Thread-safe; owns one thread."""

    def __init__(
        self,
        backend: Backend,
        model: ModelDir,
        limits: EngineLimits | None = None,
        order: Order = fifo,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_step: OnStep | None = None,
    ) -> None:
        """`on_step` is called from the engine thread and must neither block nor raise."""
        self.limits = limits or EngineLimits()
        self.steps = 0
        """Turns of the loop, idle ones included: while it grows the engine is alive."""
        self._backend, self._model = backend, model
        self._scheduler = Scheduler(self.limits, order, clock)
        self._on_step = on_step
        self._arrivals = itertools.count()
        self._live: dict[Sequence, Handle] = {}
        self._counts: Counter[str] = Counter()
        self._batch_size = 0
        self._stats = EngineStats(kv_blocks_total=self.limits.num_blocks)
        backend.reserve(self.limits.num_blocks, self.limits.block_size)
        self._thread = EngineThread("llm-engine", self._turn, self._end, self.limits.heartbeat_s, backend.device)
        self._thread.start()

    def submit(self, request: Request, on_event: OnEvent) -> Handle:
        """Queues a request. `on_event` is called from the engine thread and must not block.

        The last event of a sequence is a TokensEvent with `last` or a FailedEvent; none follows a cancel that has
        taken effect. Raises RequestError (bad request), EngineFull (try elsewhere or later), EngineClosed.
        """
        sequence = Sequence(request, self._model, self.limits.max_request_tokens, next(self._arrivals))
        handle = Handle(sequence, on_event)
        with self._thread.lock:
            if not self._thread.alive:
                raise EngineClosed("the engine is closed")
            if len(self._live) >= self.limits.max_running + self.limits.max_waiting:
                raise EngineFull(f"{len(self._live)} requests are running or waiting, which is this engine's limit")
            self._live[sequence] = handle
        self._thread.post(lambda: self._start(handle))
        return handle

    def cancel(self, handle: Handle) -> None:
        """Stops a sequence before the next step at the latest; does nothing when it has already ended."""
        handle._sequence.closed = True  # at once, so that a step under way reports nothing more
        self._thread.post(lambda: self._drop(handle, "cancelled"))

    def set_max_tokens(self, handle: Handle, max_tokens: int | None) -> None:
        """Holds generation once `max_tokens` raw ids are decoded (resumed ones included); None lifts the hold."""
        if max_tokens is not None and max_tokens < 0:
            raise RequestError(f"max_tokens {max_tokens} is negative; use 0 to hold generation back")
        self._thread.post(lambda: setattr(handle._sequence, "max_tokens", max_tokens))

    def set_play_at(self, handle: Handle, play_at: float | None) -> None:
        """Says when the listener hears (or wants to hear) the beginning; deadlines follow from it."""
        if play_at is not None and not math.isfinite(play_at):
            raise RequestError("play_at is not a finite number of seconds")
        self._thread.post(lambda: setattr(handle._sequence, "play_at", play_at))

    def append_text(self, handle: Handle, ids: Ids[int]) -> None:
        """Adds text to a request submitted with `text_complete=False`. Raises RequestError for ids out of range.

        Text beyond the request's token limit fails the sequence with a RequestError event.
        """
        text = tuple(ids)
        check_text_ids(text, self._model.llm)
        self._thread.post(lambda: self._guarded(handle, lambda: handle._sequence.add_text(text)))

    def end_text(self, handle: Handle) -> None:
        """Says that the text is complete; an empty text fails the sequence with a RequestError event."""
        self._thread.post(lambda: self._guarded(handle, handle._sequence.end_text))

    @property
    def alive(self) -> bool:
        """False once the engine is closed; every submit is then refused."""
        return self._thread.alive

    def stats(self) -> EngineStats:
        """A snapshot taken after the latest turn."""
        return self._stats

    def close(self) -> None:
        """Fails every live sequence with EngineClosed and ends the thread; safe to call twice."""
        self._thread.close()

    def _end(self) -> None:
        with self._thread.lock:
            handles = list(self._live.values())
        for handle in handles:
            self._fail(handle, EngineClosed("the engine was closed before the utterance ended"))
        self._stats = self._snapshot()

    def _turn(self) -> bool:
        """Does its steps; false when there was nothing to do."""
        left = self.limits.steps_per_turn
        while left > 0 and (done := self._step(left)):
            left -= done
        self.steps += 1
        self._stats = self._snapshot()
        return left < self.limits.steps_per_turn

    def _step(self, most: int) -> int:
        """Schedule, run, postprocess; returns how many steps the model made, at most `most`."""
        started, preemptions, before = time.perf_counter(), self._scheduler.preemptions, self._counts.copy()
        batch = self._scheduler.schedule(most)
        self._batch_size = len(batch)
        if not batch:
            return 0
        done = 1
        for work, tokens in self._execute(batch):
            work.sequence.computed += work.count + max(0, len(tokens) - 1)
            self._counts["prefill_tokens"] += work.count if work.count > 1 else 0
            done = max(done, len(tokens))
            if tokens and not work.sequence.closed:
                self._accept(self._live[work.sequence], tokens)
        self._counts["model_steps"] += done
        if self._on_step is not None:
            report = StepReport(
                batch_size=len(batch),
                seconds=time.perf_counter() - started,
                model_steps=done,
                tokens=self._counts["tokens_generated"] - before["tokens_generated"],
                prefill_tokens=self._counts["prefill_tokens"] - before["prefill_tokens"],
                preemptions=self._scheduler.preemptions - preemptions,
            )
            self._on_step(report)
        return done

    def _execute(self, batch: list[ScheduledSequence]) -> list[tuple[ScheduledSequence, Ids[int]]]:
        """Runs a batch; if it fails, runs its items one by one so that only the culprits fail."""
        try:
            return list(zip(batch, self._backend.step(batch), strict=True))
        except Exception as error:  # noqa: BLE001 - whatever a model raises must not end the loop that serves others
            if len(batch) == 1:
                self._fail(self._live[batch[0].sequence], error)
                return []
        return [pair for work in batch for pair in self._execute([work])]

    def _accept(self, handle: Handle, tokens: Ids[int]) -> None:
        event = handle._sequence.accept_all(tokens)
        self._counts["tokens_generated"] += len(event.raw_ids)
        if event.last:
            self._drop(handle, "finished")
        self._emit(handle, event)

    def _start(self, handle: Handle) -> None:
        sequence = handle._sequence
        if sequence.closed:
            return
        if sequence.finish_reason is not None:  # resumed where nothing is left to decode
            self._drop(handle, "finished")
            self._emit(handle, TokensEvent((), (), True, sequence.finish_reason))
        else:
            self._scheduler.add(sequence)

    def _guarded(self, handle: Handle, change: Callable[[], None]) -> None:
        try:
            if not handle._sequence.closed:
                change()
        except RequestError as error:
            self._fail(handle, error)

    def _emit(self, handle: Handle, event: Event) -> None:
        try:
            handle._on_event(event)
        except Exception:  # noqa: BLE001 - a listener that raises has lost its own stream, nobody else's
            self._drop(handle, "failed")

    def _fail(self, handle: Handle, error: Exception) -> None:
        cancelled = handle._sequence.closed
        if self._drop(handle, "cancelled" if cancelled else "failed") and not cancelled:
            self._emit(handle, FailedEvent(error))

    def _drop(self, handle: Handle, outcome: str) -> bool:
        """Forgets a sequence and frees all it holds; false when that had already happened."""
        with self._thread.lock:
            known = self._live.pop(handle._sequence, None) is not None
        handle._sequence.closed = True
        if known:
            self._scheduler.remove(handle._sequence)
            self._counts[outcome] += 1
        return known

    def _snapshot(self) -> EngineStats:
        scheduler = self._scheduler
        return EngineStats(
            waiting=len(scheduler.waiting),
            running=len(scheduler.running),
            held=sum(not sequence.runnable for sequence in scheduler.running),
            paused=len(scheduler.paused),
            kv_blocks_used=scheduler.allocator.used,
            kv_blocks_total=scheduler.allocator.num_blocks,
            batch_size=self._batch_size,
            preemptions=scheduler.preemptions,
            **self._counts,
        )
