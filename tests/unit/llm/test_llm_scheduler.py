"""Which sequences run next: block bookkeeping, prefill budget, admission, order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.checkpoint.model_dir import ModelDir
from services.llm.engine.blocks import BlockAllocator
from services.llm.engine.layout import Prompt
from services.llm.engine.scheduler import EngineLimits, Order, ScheduledSequence, Scheduler, earliest_deadline, fifo
from services.llm.engine.sequence import Request, Sequence
from tests.unit.llm.llm_support import utterance

LONG = Request((1, 2, 3, 4, 5), Prompt(tuple(range(40)), tuple(range(50))))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 30)), max_size=40), st.integers(1, 7))
def test_blocks_are_never_shared_nor_lost(growths: list[tuple[int, int]], block_size: int) -> None:
    allocator = BlockAllocator(20, block_size)
    owners: list[list[int]] = [[] for _ in range(5)]
    for owner, rows in growths:
        blocks = owners[owner]
        if rows == 0:
            allocator.release(blocks)
        elif allocator.shortage(blocks, rows):
            with pytest.raises(MemoryError):
                allocator.grow(blocks, rows)
        else:
            allocator.grow(blocks, rows)
            assert len(blocks) * block_size >= rows
        held = [block for blocks in owners for block in blocks]
        assert len(held) == len(set(held)) == allocator.used
    for blocks in owners:
        allocator.release(blocks)
    assert allocator.used == 0


class Bench:
    """A scheduler whose steps the test runs."""

    def __init__(self, model: ModelDir, limits: EngineLimits, order: Order = fifo) -> None:
        self.model, self.count, self.now = model, 0, 100.0
        self.scheduler = Scheduler(limits, order, lambda: self.now)

    def add(self, request: Request) -> Sequence:
        sequence = Sequence(request, self.model, self.scheduler.limits.max_request_tokens, self.count)
        self.count += 1
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> list[ScheduledSequence]:
        batch = self.scheduler.schedule()
        for scheduled in batch:
            scheduled.sequence.computed += scheduled.count
            if scheduled.samples:
                scheduled.sequence.accept(7)
        return batch

    def runs(self, *sequences: Sequence) -> bool:
        """Run a step; return whether exactly these sequences took part."""
        return {scheduled.sequence for scheduled in self.step()} == set(sequences)


def test_a_long_prompt_does_not_stall_a_running_stream(mini_dir: ModelDir) -> None:
    bench = Bench(mini_dir, EngineLimits(prefill_tokens=20))
    running = bench.add(utterance(1))
    bench.step()
    long = bench.add(LONG)
    chunks = []
    while not long.decoded:
        by_sequence = {scheduled.sequence: scheduled for scheduled in bench.step()}
        assert by_sequence[running].samples
        chunks.append(by_sequence[long].count)
    assert chunks == [20, 20, 20, 20, 17]


def test_a_step_that_feeds_a_prompt_samples_one_token_per_sequence(mini_dir: ModelDir) -> None:
    """So a new utterance waits for one step of the others at most."""
    bench = Bench(mini_dir, EngineLimits())
    running = bench.add(utterance(5))
    bench.step()
    assert [scheduled.num_steps for scheduled in bench.scheduler.schedule(8)] == [8]
    new = bench.add(LONG)
    assert {each.sequence: each.num_steps for each in bench.scheduler.schedule(8)} == {running: 1, new: 1}


def test_waiting_requests_gather_between_admissions(mini_dir: ModelDir) -> None:
    bench = Bench(mini_dir, EngineLimits(admission_interval=4))
    bench.add(utterance(1))
    bench.step()
    bench.add(utterance(2))
    bench.add(utterance(3))
    assert [len(bench.step()) for _ in range(4)] == [1, 1, 1, 3]


@pytest.mark.parametrize(("order", "expected"), [(fifo, [0, 1, 2]), (earliest_deadline, [2, 0, 1])])
def test_order_determines_the_first_admission(mini_dir: ModelDir, order: Order, expected: list[int]) -> None:
    bench = Bench(mini_dir, EngineLimits(max_running=1), order)
    deadlines = [9.0, None, 3.0]
    sequences = [bench.add(replace(utterance(number), play_at=when)) for number, when in enumerate(deadlines)]
    admitted = []
    for _ in sequences:
        (scheduled,) = bench.step()
        admitted.append(sequences.index(scheduled.sequence))
        bench.scheduler.remove(scheduled.sequence)
    assert admitted == expected
    assert bench.scheduler.allocator.used == 0


def test_the_last_in_order_yields_its_blocks(mini_dir: ModelDir) -> None:
    bench = Bench(mini_dir, EngineLimits(total_tokens=30, max_request_tokens=30, block_size=1))
    first, second = bench.add(utterance(1)), bench.add(utterance(2))
    while bench.scheduler.preemptions == 0:
        bench.step()
    assert (second.computed, second.blocks) == (0, [])
    assert first.pending == 1
    decoded = list(second.decoded)
    bench.scheduler.remove(first)
    bench.step()
    assert second.decoded == [*decoded, 7]


def test_a_held_sequence_yields_before_any_that_can_run(mini_dir: ModelDir) -> None:
    bench = Bench(mini_dir, EngineLimits(max_running=2))
    held = bench.add(replace(utterance(1), max_tokens=1))
    other = bench.add(utterance(2))
    bench.step()
    newcomer = bench.add(utterance(3))
    assert {scheduled.sequence for scheduled in bench.step()} == {other, newcomer}
    assert held.blocks == []
    held.max_tokens = None
    bench.scheduler.remove(other)
    assert {scheduled.sequence for scheduled in bench.step()} == {held, newcomer}


def test_sequences_that_take_no_part_in_a_step_are_not_sorted(mini_dir: ModelDir) -> None:
    """A service with hundreds of streams far ahead of their listeners schedules a few in each step."""
    asked: list[Sequence] = []

    def order(sequence: Sequence) -> tuple[float, ...]:
        asked.append(sequence)
        return fifo(sequence)

    bench = Bench(mini_dir, EngineLimits(max_running=64), order)
    held = [bench.add(utterance(seed)) for seed in range(20)]
    running = bench.add(utterance(20))
    while bench.scheduler.waiting or any(sequence.pending > 1 for sequence in (*held, running)):
        bench.step()
    for sequence in held:
        sequence.max_tokens = len(sequence.decoded)
    asked.clear()
    assert bench.runs(running)
    assert set(asked) == {running}


def test_sequences_that_wait_are_not_sorted_in_each_step(mini_dir: ModelDir) -> None:
    """A full worker has a long queue, and its place in it is what a sequence waits for."""
    asked: list[Sequence] = []

    def order(sequence: Sequence) -> tuple[float, ...]:
        asked.append(sequence)
        return fifo(sequence)

    bench = Bench(mini_dir, EngineLimits(max_running=1), order)
    running = bench.add(utterance(1))
    assert bench.runs(running)
    waiting = [bench.add(utterance(seed)) for seed in range(2, 40)]
    asked.clear()
    assert bench.runs(running)
    assert set(asked) == {running}
    bench.scheduler.remove(running)
    assert bench.runs(waiting[0])


def test_a_sequence_that_waits_moves_up_when_it_becomes_more_urgent(mini_dir: ModelDir) -> None:
    bench = Bench(mini_dir, EngineLimits(max_running=1), earliest_deadline)
    running = bench.add(replace(utterance(1), play_at=100.0))
    assert bench.runs(running)
    first, second, third = (bench.add(replace(utterance(2), play_at=101.0 + number)) for number in range(3))
    bench.scheduler.set_play_at(third, 100.5)
    bench.scheduler.set_play_at(first, None)
    for sequence in (running, third, second, first):
        assert bench.runs(sequence)
        bench.scheduler.remove(sequence)


def test_a_stream_far_ahead_pauses_while_another_needs_the_step(mini_dir: ModelDir) -> None:
    bench = Bench(mini_dir, EngineLimits(lead_s=2.0), earliest_deadline)
    playing = bench.add(replace(utterance(1), play_at=100.0, max_seconds=60))
    while playing.due - bench.now <= 2.0:
        assert bench.runs(playing)
    assert playing.spoken == 51
    assert bench.scheduler.paused == [], "it took part in the latest step"
    assert bench.runs(playing), "no other sequence needs the step"
    newcomer = bench.add(replace(utterance(2), play_at=100.5))
    assert bench.runs(newcomer)
    assert bench.scheduler.paused == [playing]
    assert playing.blocks, "there is room for both"
    bench.now = 100.2
    assert bench.runs(playing, newcomer), "its lead is used up"
    newcomer.max_tokens = 0
    bench.now = 90.0
    assert bench.runs(playing), "one that is held does not need the step"


@pytest.mark.parametrize(("speed", "spoken"), [(0.5, 26), (1.0, 51), (2.0, 101)])
def test_speech_played_faster_is_due_sooner(mini_dir: ModelDir, speed: float, spoken: int) -> None:
    bench = Bench(mini_dir, EngineLimits(lead_s=2.0), earliest_deadline)
    playing = bench.add(replace(utterance(1), play_at=100.0, max_seconds=60, speed=speed))
    bench.add(replace(utterance(2), play_at=100.5, max_tokens=0))
    while playing.due - bench.now <= 2.0:
        assert bench.runs(playing)
    assert playing.spoken == spoken


def test_a_paused_sequence_yields_its_place_to_a_new_one(mini_dir: ModelDir) -> None:
    bench = Bench(mini_dir, EngineLimits(max_running=1, lead_s=2.0), earliest_deadline)
    offline = bench.add(replace(utterance(1), play_at=160.0, max_seconds=60))
    assert bench.runs(offline)
    newcomer = bench.add(replace(utterance(2), play_at=100.5))
    assert bench.runs(newcomer)
    assert (offline.blocks, bench.scheduler.preemptions) == ([], 1)
    bench.scheduler.remove(newcomer)
    assert bench.runs(offline)


def test_offline_work_is_never_starved(mini_dir: ModelDir) -> None:
    """Interactive streams arrive continuously; an offline one runs once it has waited long enough."""
    bench = Bench(mini_dir, EngineLimits(max_running=1, lead_s=2.0), earliest_deadline)
    offline = bench.add(replace(utterance(1), play_at=160.0))
    for _ in range(200):
        newcomer = bench.add(replace(utterance(2), play_at=bench.now + 0.5))
        bench.step()
        bench.now += 0.5
        bench.scheduler.remove(newcomer)
        if offline.decoded:
            break
    assert 155.0 < bench.now < 165.0


def test_the_most_urgent_comes_first(mini_dir: ModelDir) -> None:
    bench = Bench(mini_dir, EngineLimits(prefill_tokens=4), earliest_deadline)
    first = bench.add(replace(LONG, play_at=101.0))
    second = bench.add(replace(LONG, play_at=100.5))
    assert bench.runs(second)
    bench.scheduler.set_play_at(first, 100.1)
    assert bench.runs(first)
