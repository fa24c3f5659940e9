"""Chooses the sequences of the next step, and how many inputs each of them feeds.

Iteration-level scheduling: in every step, decoding sequences feed one input, and sequences with more inputs to feed (a
new prompt, a text block, a recomputation) feed as many as the step's prefill budget allows. Sequences without blocks in
the K/V cache wait. When blocks run out, the last sequence in order is preempted and later recomputed from its inputs.
Sequences far ahead of their listeners pause while others need the step.
"""

from __future__ import annotations

import itertools
import math
import time
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, field

from services.llm.alignment.monotonic import Aligned
from services.llm.engine.blocks import BlockAllocator
from services.llm.engine.sequence import Sequence

Order = Callable[[Sequence], tuple[float, ...]]
"""A sort key: the smallest runs first, keeps its blocks longest, and is admitted first."""


def fifo(sequence: Sequence) -> tuple[float, ...]:
    """First come, first served."""
    return (sequence.arrival,)


def earliest_deadline(sequence: Sequence) -> tuple[float, ...]:
    """The most urgent first; of equal ones admitted sessions first; without a deadline last, in order of arrival."""
    return (sequence.due, not sequence.request.place.admitted, sequence.arrival)


@dataclass(frozen=True)
class EngineLimits:
    """Limits of one engine."""

    max_running: int = 32
    """Sequences that hold K/V blocks at once, so also the largest batch."""
    max_waiting: int = 128
    """Sequences beyond `max_running` that may queue; one more is refused."""
    total_tokens: int = 32768
    """Size of the K/V cache in slots, for all sequences together."""
    max_request_tokens: int = 4096
    """K/V slots that one sequence may use: prompt, text and speech together."""
    prefill_tokens: int = 512
    """Most prompt inputs fed per step, so that a long prompt does not stall the sequences that decode."""
    admission_interval: int = 1
    """Steps between admissions; with more, prompts are fed in fewer, larger steps."""
    steps_per_turn: int = 1
    """Steps between two looks at callers' commands; more saves host work and delays new requests."""
    lead_s: float = math.inf
    """A sequence whose deadline is more than this many seconds away pauses while another one needs the step."""
    block_size: int = 16
    """K/V slots per block."""
    heartbeat_s: float = 0.1
    """Longest time between two turns of an idle engine, so that its step counter shows that it is alive."""

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


@dataclass(slots=True)
class ScheduledSequence:
    """Feed the inputs `start` to `start + count` of `sequence`; if `samples`, sample a token after the last of them."""

    sequence: Sequence
    start: int
    count: int
    samples: bool
    num_steps: int = 1
    """Most tokens to sample, each except the last being fed back; the sequence has blocks for them."""
    aligned: list[Aligned] = field(default_factory=list, compare=False, repr=False)
    """The text id of each sampled token, if the backend aligns them; the backend fills it."""


class Scheduler:
    """Waiting and running sequences, and the blocks the running ones hold. Used by the engine thread alone."""

    def __init__(self, limits: EngineLimits, order: Order = fifo, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.allocator = BlockAllocator(limits.num_blocks, limits.block_size)
        self.waiting: list[Sequence] = []
        """In order: as long as a sequence waits, its place changes only in `set_play_at`."""
        self.running: list[Sequence] = []
        self.preemptions = 0
        self._order, self._clock = order, clock
        self._latest = math.inf
        """Sequences that are due later are far ahead: they pause in this step."""
        self._active: set[Sequence] = set()
        """Running sequences that take part in this step: the others are held, wait for text, or pause."""
        self._since_admission = limits.admission_interval

    @property
    def paused(self) -> list[Sequence]:
        """Sequences that could run and did not in the latest step, because they are far ahead."""
        idle = (sequence for sequence in (*self.waiting, *self.running) if sequence not in self._active)
        return [sequence for sequence in idle if sequence.runnable and _far_ahead(sequence, self._latest)]

    def add(self, sequence: Sequence) -> None:
        insort(self.waiting, sequence, key=self._order)

    def set_play_at(self, sequence: Sequence, play_at: float | None) -> None:
        """Set when playback of a sequence's beginning starts (or should start)."""
        waits = sequence in self.waiting
        if waits:
            self.waiting.remove(sequence)
        sequence.play_at = play_at
        if waits:
            self.add(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Remove a sequence, waiting or running, and free its blocks."""
        self.allocator.release(sequence.blocks)
        for queue in (self.waiting, self.running):
            if sequence in queue:
                queue.remove(sequence)

    def schedule(self, num_steps: int = 1) -> list[ScheduledSequence]:
        """Choose the sequences of the next step; each has blocks for the inputs it feeds.

        If all of them decode, each may sample up to `num_steps` tokens.
        """
        self._latest = latest = self._latest_due()
        # Fixed for the step: a caller may cancel a sequence meanwhile.
        self._active = {sequence for sequence in self.running if sequence.runnable and not _far_ahead(sequence, latest)}
        self._admit()
        batch: list[ScheduledSequence] = []
        prefill_left = self.limits.prefill_tokens
        before, decoding = self.preemptions, num_steps > 1
        for sequence in sorted(self._active, key=self._order):
            if self.preemptions > before and sequence not in self.running:  # preempted by one before it in this loop
                continue
            pending = sequence.pending
            count = min(pending, prefill_left) if pending > 1 else pending
            if count == 0:
                continue
            if self._reserve(sequence, sequence.computed + count):
                prefill_left -= count if pending > 1 else 0
                batch.append(ScheduledSequence(sequence, sequence.computed, count, samples=count == pending))
                decoding = decoding and pending == 1
        if decoding:
            for scheduled in batch:
                scheduled.num_steps = self._steps(scheduled.sequence, num_steps)
        return batch

    def _steps(self, sequence: Sequence, most: int) -> int:
        """Return how many tokens it may sample, and give it blocks for them; no sequence is preempted for this."""
        num_steps = min(most, sequence.max_steps)
        slots = sequence.computed + num_steps
        if self.allocator.shortage(sequence.blocks, slots):
            return 1
        self.allocator.grow(sequence.blocks, slots)
        return num_steps

    def _admit(self) -> None:
        """Give waiting sequences blocks for their inputs and the first token, as long as there is room."""
        self._since_admission += 1
        if self._since_admission < self.limits.admission_interval and self._active:
            return
        for sequence in self.waiting.copy():
            if not sequence.runnable or _far_ahead(sequence, self._latest):
                continue
            slots = sequence.pending + 1
            while len(self.running) >= self.limits.max_running or self.allocator.shortage([], slots):
                victim = self._last_idle()
                if victim is None:
                    return
                self._preempt(victim)
            self.waiting.remove(sequence)
            self.running.append(sequence)
            self._active.add(sequence)
            self.allocator.grow(sequence.blocks, slots)
            self._since_admission = 0

    def _reserve(self, sequence: Sequence, slots: int) -> bool:
        """Give `sequence` blocks for `slots` slots and preempt later ones for it; false if it was preempted itself."""
        if slots <= len(sequence.blocks) * self.limits.block_size:  # in most steps
            return True
        while self.allocator.shortage(sequence.blocks, slots):
            victim = self._last_idle() or max(self.running, key=self._order)
            self._preempt(victim)
            if victim is sequence:
                return False
        self.allocator.grow(sequence.blocks, slots)
        return True

    def _latest_due(self) -> float:
        """Return when a sequence may be due and take part in this step: any time, if all that can run are far ahead."""
        if self.limits.lead_s == math.inf:
            return math.inf
        latest = self._clock() + self.limits.lead_s
        everyone = itertools.chain(self.running, self.waiting)
        urgent = any(sequence.runnable and not _far_ahead(sequence, latest) for sequence in everyone)
        return latest if urgent else math.inf

    def _last_idle(self) -> Sequence | None:
        """The last in order of the running sequences that take no part in this step."""
        idle = (sequence for sequence in self.running if sequence not in self._active)
        return max(idle, key=self._order, default=None)

    def _preempt(self, sequence: Sequence) -> None:
        self.allocator.release(sequence.blocks)
        sequence.computed = 0
        self.running.remove(sequence)
        self.add(sequence)
        self.preemptions += 1


def _far_ahead(sequence: Sequence, latest: float) -> bool:
    return latest != math.inf and latest < sequence.due < math.inf
