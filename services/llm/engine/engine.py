"""The llm engine: one thread that schedules, runs and postprocesses, step after step.

Callers on any thread submit requests and receive events; everything else happens in the engine thread, which takes
callers' commands between two turns.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from collections.abc import Sequence as Ids
from dataclasses import dataclass

from services.common.checkpoint.model_dir import ModelDir
from services.common.engine.places import needs_place, places_taken
from services.common.engine.shell import EngineFull, EngineShell, ItemHandle
from services.common.engine.thread import EngineThread
from services.llm.alignment.monotonic import Aligned
from services.llm.engine.backends import Backend, run_canary
from services.llm.engine.layout import RequestError
from services.llm.engine.scheduler import EngineLimits, Order, ScheduledSequence, Scheduler, fifo
from services.llm.engine.sequence import Event, Request, Sequence, TokensEvent, check_text_ids

OnEvent = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step that ran, for statistics."""

    batch_size: int
    seconds: float
    model_steps: int
    """More than 1 if the backend sampled several tokens per sequence in one run."""
    tokens: int
    prefill_tokens: int
    preemptions: int
    """Sequences that lost their blocks when the step was scheduled."""


OnStep = Callable[[StepReport], None]


@dataclass(frozen=True)
class EngineStats:
    """The engine's state, and its counters since the start."""

    waiting: int = 0
    running: int = 0
    """Sequences that hold K/V blocks."""
    held: int = 0
    """Running sequences that cannot run now: they are held by their token budget or wait for text."""
    paused: int = 0
    """Sequences that could run and waited in the latest turn, because they are far ahead of their listeners."""
    kv_blocks_used: int = 0
    kv_blocks_total: int = 0
    batch_size: int = 0
    """Sequences in the latest step; 0 if there was nothing to run."""
    model_steps: int = 0
    tokens_generated: int = 0
    prefill_tokens: int = 0
    preemptions: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0


class Handle(ItemHandle[Sequence, TokensEvent]):
    """A submitted request, as its caller names it to the engine."""

    __slots__ = ("resumed",)

    def __init__(self, sequence: Sequence, on_event: OnEvent) -> None:
        super().__init__(sequence, on_event)
        self.resumed = sequence.resumed
        """The ids of the request's `resume_ids` that are to be spoken; no event reports them."""


class LlmEngine(EngineShell[Sequence, TokensEvent, EngineStats]):
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
        thread: Callable[..., EngineThread] | None = None,
    ) -> None:
        """`on_step` is called from the engine thread; it must not block or raise. `thread` makes the engine's thread,
        which a simulation replaces."""
        self.limits = limits or EngineLimits()
        self.steps = 0
        """Turns of the loop, idle ones included; it grows while the engine is alive."""
        make = thread or EngineThread
        own_thread = make("llm-engine", self._turn, self._end, self.limits.heartbeat_s, backend.device)
        super().__init__(own_thread, RequestError)
        self.aligns = bool(getattr(backend, "aligns", False))
        """Whether tokens are aligned with the text; other backends than torch's do not."""
        self._backend, self._model = backend, model
        self._scheduler = Scheduler(self.limits, order, clock)
        self._on_step = on_step
        self._arrivals = itertools.count()
        self._batch_size = 0
        backend.reserve(self.limits.num_blocks, self.limits.block_size)
        own_thread.start()

    def submit(self, request: Request, on_event: OnEvent) -> Handle:
        """Queue a request. `on_event` is called from the engine thread and must not block.

        The last event of a sequence is a TokensEvent with `last` or a FailedEvent; no event follows a cancel that has
        taken effect. Raises RequestError (bad request), EngineFull (try another worker, or later), EngineClosed.
        """
        sequence = Sequence(request, self._model, self.limits.max_request_tokens, next(self._arrivals))
        handle = Handle(sequence, on_event)
        self._add(handle)
        self._thread.post(lambda: self._start(handle))
        return handle

    def set_max_tokens(self, handle: Handle, max_tokens: int | None) -> None:
        """Hold generation once `max_tokens` ids are to be spoken (resumed ones included); None never holds."""
        if max_tokens is not None and max_tokens < 0:
            raise RequestError(f"max_tokens {max_tokens} is negative; use 0 to hold generation")
        self._thread.post(lambda: setattr(handle.item, "max_tokens", max_tokens))

    def set_play_at(self, handle: Handle, play_at: float | None) -> None:
        """Set when playback of the beginning starts (or should start); deadlines follow from it."""
        if play_at is not None and not math.isfinite(play_at):
            raise RequestError("play_at is not a finite number of seconds")
        self._thread.post(lambda: self._scheduler.set_play_at(handle.item, play_at))

    def append_text(self, handle: Handle, ids: Ids[int]) -> None:
        """Add text to a request submitted with `text_complete=False`. Raises RequestError for ids out of range.

        Text beyond the request's token limit fails the sequence with a RequestError event.
        """
        text = tuple(ids)
        check_text_ids(text, self._model.llm)
        self._thread.post(lambda: self._guarded(handle, lambda: handle.item.add_text(text)))

    def end_text(self, handle: Handle) -> None:
        """End the text; an empty text fails the sequence with a RequestError event."""
        self._thread.post(lambda: self._guarded(handle, handle.item.end_text))

    def _admit(self, item: Sequence) -> None:
        places = [sequence.request.place for sequence in self._live if not sequence.closed]
        if needs_place(item.request.place, places):
            taken = places_taken(places)
            if taken >= self.limits.max_running + self.limits.max_waiting:
                raise EngineFull(f"{taken} sessions are running or waiting, which is this engine's limit")

    def _release(self, item: Sequence) -> None:
        self._scheduler.remove(item)

    def _turn(self) -> bool:
        """Run the steps of a turn; false if there was nothing to run."""
        self._canary_due = True
        left = self.limits.steps_per_turn
        while left > 0 and (done := self._step(left)):
            left -= done
        self.steps += 1
        return left < self.limits.steps_per_turn

    def _run_canary(self) -> None:
        run_canary(self._backend, self._model, self.limits)

    def _step(self, num_steps: int) -> int:
        """Schedule, run and postprocess; return how many steps the model made, at most `num_steps`."""
        started, preemptions, before = time.perf_counter(), self._scheduler.preemptions, self._counts.copy()
        batch = self._scheduler.schedule(num_steps)
        self._batch_size = len(batch)
        if not batch:
            return 0
        done = 1
        for scheduled, tokens in self._execute(batch):
            scheduled.sequence.computed += scheduled.count + max(0, len(tokens) - 1)
            self._counts["prefill_tokens"] += scheduled.count if scheduled.count > 1 else 0
            done = max(done, len(tokens))
            if tokens and not scheduled.sequence.closed:
                self._accept(self._live[scheduled.sequence], tokens, scheduled.aligned)
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
        """Run a batch; if it fails, run its sequences one by one so that only the ones that cause it fail."""
        try:
            return list(zip(batch, self._backend.step(batch), strict=True))
        except Exception as error:  # noqa: BLE001 - no error of a model may end the loop that serves other sequences
            if len(batch) == 1:
                self._fail(self._live[batch[0].sequence], error)
                return []
        return [pair for scheduled in batch for pair in self._execute([scheduled])]

    def _accept(self, handle: ItemHandle[Sequence, TokensEvent], tokens: Ids[int], aligned: Ids[Aligned]) -> None:
        event = handle.item.accept_all(tokens, aligned)
        self._counts["tokens_generated"] += len(event.raw_ids)
        if event.last:
            self._drop(handle, "finished")
        self._emit(handle, event)

    def _start(self, handle: Handle) -> None:
        sequence = handle.item
        if sequence.closed:
            return
        if sequence.finish_reason is not None:  # resumed at its end
            self._drop(handle, "finished")
            self._emit(handle, TokensEvent((), (), True, sequence.finish_reason, (), sequence.text_position))
        else:
            self._scheduler.add(sequence)

    def stats(self) -> EngineStats:
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
