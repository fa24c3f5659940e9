"""Which sequences take part in the next step, and with how many rows.

Iteration-level scheduling: every step anew, decoding sequences advance by one row and sequences with more rows to
feed (a new prompt, a text block, a recomputation) by as many as the step's prefill budget leaves. Sequences without a
place in the K/V cache wait; when blocks run out, the last in order is preempted and later recomputed from its rows.
Those far ahead of their listeners pause while others need the step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from services.llm.engine.blocks import BlockAllocator
from services.llm.engine.sequence import Sequence

Order = Callable[[Sequence], tuple[float, ...]]
"""A sort key: the smallest runs first, keeps its blocks longest, and is admitted first."""


def fifo(sequence: Sequence) -> tuple[float, ...]:
    """First come, first served."""
    return (sequence.arrival,)


def earliest_deadline(sequence: Sequence) -> tuple[float, ...]:
    """The most urgent first; those nobody waits for last, in order of arrival."""
    return (sequence.due, sequence.arrival)


@dataclass(frozen=True)
class EngineLimits:
    """What one engine takes on."""

    max_running: int = 32
    """Sequences that hold K/V blocks at once, so also the largest batch."""
    max_waiting: int = 128
    """Sequences beyond `max_running` that may queue; one more is refused."""
    total_tokens: int = 32768
    """Size of the K/V cache in rows, all sequences together."""
    max_request_tokens: int = 4096
    """Rows one sequence may take: prompt, text and speech together."""
    prefill_tokens: int = 512
    """Rows of prompt fed per step at most, so that a long prompt does not stall the streams that decode."""
    admission_interval: int = 1
    """Steps between admissions; more lets prompts gather into fewer, larger steps."""
    steps_per_turn: int = 1
    """Steps between two looks at what callers want; more saves host work, and lets a newcomer wait longer."""
    lead_s: float = math.inf
    """A sequence that is due later than so many seconds from now pauses while any other needs the step."""
    block_size: int = 16
    """Rows per K/V block."""
    heartbeat_s: float = 0.1
    """An idle engine turns at least this often, so that its step counter tells a live loop from a hung one."""

    def __post_init__(self) -> None:
        for name in ("max_running", "prefill_tokens", "admission_interval", "steps_per_turn", "block_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if not self.lead_s >= 0:
            raise ValueError("lead_s must not be negative")
        if self.max_waiting < 0 or self.heartbeat_s <= 0:
            raise ValueError("max_waiting must not be negative and heartbeat_s must be positive")
        if not 0 < self.max_request_tokens <= self.num_blocks * self.block_size:
            raise ValueError(
                f"max_request_tokens {self.max_request_tokens} must fit into total_tokens {self.total_tokens}"
            )

    @property
    def num_blocks(self) -> int:
        return self.total_tokens // self.block_size


@dataclass(frozen=True, slots=True)
class ScheduledSequence:
    """Feed the next `count` rows of `sequence`; `samples` says whether a token follows the last of them."""

    sequence: Sequence
    start: int
    count: int
    samples: bool
    burst: int = 1
    """How many tokens may be drawn in a row, each but the last fed at once; the sequence has blocks for them."""


class Scheduler:
    """Waiting and running sequences, and the blocks the running ones hold. Used by the engine thread alone."""

    def __init__(self, limits: EngineLimits, order: Order = fifo, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.allocator = BlockAllocator(limits.num_blocks, limits.block_size)
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.paused: frozenset[Sequence] = frozenset()
        """Sequences that could run and are kept from it, being far ahead."""
        self.preemptions = 0
        self._order, self._clock = order, clock
        self._since_admission = limits.admission_interval

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forgets a sequence, wherever it is, and frees its blocks."""
        self.allocator.release(sequence.blocks)
        for queue in (self.waiting, self.running):
            if sequence in queue:
                queue.remove(sequence)

    def schedule(self, burst: int = 1) -> list[ScheduledSequence]:
        """Chooses the next step's work; every chosen sequence has blocks for the rows it is to feed.

        When all of them decode, each may draw up to `burst` tokens.
        """
        self.paused = self._far_ahead()
        self._admit()
        batch: list[ScheduledSequence] = []
        prefill_left = self.limits.prefill_tokens
        for sequence in sorted(self.running, key=self._order):
            count = min(sequence.pending, prefill_left) if sequence.pending > 1 else sequence.pending
            preempted = sequence not in self.running  # by one before it in this loop
            if preempted or count == 0 or self._idle(sequence):
                continue
            if self._reserve(sequence, sequence.computed + count):
                prefill_left -= count if sequence.pending > 1 else 0
                batch.append(ScheduledSequence(sequence, sequence.computed, count, samples=count == sequence.pending))
        decoding = burst > 1 and all(work.samples and work.count == 1 for work in batch)
        return [self._prolonged(work, burst) for work in batch] if decoding else batch

    def _prolonged(self, work: ScheduledSequence, burst: int) -> ScheduledSequence:
        """The same work with up to `burst` tokens, if that takes nobody's blocks."""
        sequence = work.sequence
        burst = min(burst, sequence.burst)
        if self.allocator.shortage(sequence.blocks, sequence.computed + burst):
            return work
        self.allocator.grow(sequence.blocks, sequence.computed + burst)
        return replace(work, burst=burst)

    def _admit(self) -> None:
        """Moves waiting sequences in while there is room for their rows and the first token after them."""
        self._since_admission += 1
        idle = all(self._idle(sequence) for sequence in self.running)
        if self._since_admission < self.limits.admission_interval and not idle:
            return
        for sequence in sorted(self.waiting, key=self._order):
            if self._idle(sequence):
                continue
            rows = sequence.pending + 1
            while len(self.running) >= self.limits.max_running or self.allocator.shortage([], rows):
                victim = self._last_idle()
                if victim is None:
                    return
                self._preempt(victim)
            self.waiting.remove(sequence)
            self.running.append(sequence)
            self.allocator.grow(sequence.blocks, rows)
            self._since_admission = 0

    def _reserve(self, sequence: Sequence, rows: int) -> bool:
        """Gives `sequence` blocks for `rows` rows, preempting those behind it; false if it had to yield itself."""
        while self.allocator.shortage(sequence.blocks, rows):
            victim = self._last_idle() or max(self.running, key=self._order)
            self._preempt(victim)
            if victim is sequence:
                return False
        self.allocator.grow(sequence.blocks, rows)
        return True

    def _far_ahead(self) -> frozenset[Sequence]:
        """Who pauses in this step: those with a long lead, unless nobody has a shorter one."""
        if self.limits.lead_s == math.inf:
            return frozenset()
        latest = self._clock() + self.limits.lead_s
        runnable = [sequence for sequence in (*self.waiting, *self.running) if sequence.runnable]
        ahead = frozenset(sequence for sequence in runnable if latest < sequence.due < math.inf)
        return ahead if len(ahead) < len(runnable) else frozenset()

    def _idle(self, sequence: Sequence) -> bool:
        """Whether it has no part in this step: held back, awaiting text, or paused."""
        return sequence in self.paused or not sequence.runnable

    def _last_idle(self) -> Sequence | None:
        """Of the running sequences without a part in this step the last in order."""
        return max(filter(self._idle, self.running), key=self._order, default=None)

    def _preempt(self, sequence: Sequence) -> None:
        self.allocator.release(sequence.blocks)
        sequence.computed = 0
        self.running.remove(sequence)
        self.waiting.append(sequence)
        self.preemptions += 1
