"""Several tokens of a sequence at once: the same results as one by one, and little work of the host."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Literal
from unittest import mock

import pytest
import torch
from torch import Tensor

from services.common.checkpoint.model_dir import AlignmentHead, ModelDir, open_model_dir
from services.llm.engine.layout import Prompt
from services.llm.engine.scheduler import EngineLimits, ScheduledSequence, Scheduler, earliest_deadline
from services.llm.engine.sequence import Request, SamplingOptions
from services.llm.engine.sequence import Sequence as EngineSequence
from services.llm.model.decode_program import DecodeInputs, DecodeProgram, ProgramInput
from services.llm.model.kernels import PLAIN, StepKernels
from services.llm.model.kv_cache import KVCache, StepBatch
from services.llm.model.model import SpeechLM
from services.llm.model.sampling import SamplingBatch, SamplingRow
from services.llm.model.torch_backend import TorchBackend, TorchOptions
from tests.unit.llm.llm_support import ROOT

LIMITS = EngineLimits(max_running=6, total_tokens=160, max_request_tokens=96, block_size=4)
MOST_FUNCTIONS = 25
"""Python functions per sequence and run of eight steps. Three per token more would be twice as many."""


@pytest.mark.parametrize("order", ["whole", "interleaved"])
@pytest.mark.parametrize("seed", range(6))
def test_tokens_at_once_have_the_effect_of_tokens_one_by_one(order: Literal["whole", "interleaved"], seed: int) -> None:
    """With silent ids, fill ids, stops, and ends by length."""
    third, rng = open_model_dir(ROOT / "tests" / "data" / "cosyvoice3-mini"), random.Random(seed)
    request = Request(tuple(range(12)), Prompt((1, 2), tuple(range(20))), text_order=order, max_seconds=1 + seed)
    at_once, one_by_one = (EngineSequence(request, third, 4096, 0) for _ in range(2))
    while at_once.finish_reason is None:
        constraint = at_once.layout.constraint()
        count = rng.randint(1, min(8, at_once.max_steps))
        tokens = [rng.choice((1, 2, 28, 29, 7, 8)) for _ in range(count)]
        if constraint.forced is not None:
            tokens = [constraint.forced]
        elif constraint.allowed and rng.random() < 0.1:
            tokens[-1] = rng.choice(sorted(constraint.allowed))
        event, single = at_once.accept_all(tokens), [one_by_one.accept(token) for token in tokens]
        assert event.ids == sum((each.ids for each in single), ())
        assert event.raw_ids == sum((each.raw_ids for each in single), ())
        assert (event.last, event.finish_reason) == (single[-1].last, single[-1].finish_reason)
        for name in ("decoded", "spoken", "silent_run", "runnable", "max_steps", "pending"):
            assert getattr(at_once, name) == getattr(one_by_one, name)
        assert at_once.layout.inputs == one_by_one.layout.inputs
        assert at_once.layout.text_slots == one_by_one.layout.text_slots


class Driver:
    """Runs the steps of a backend and keeps what each token is sampled from in programs."""

    def __init__(
        self,
        model: SpeechLM,
        directory: ModelDir,
        limits: EngineLimits = LIMITS,
        programs: tuple[int, ...] = (2, 8),
        heads: tuple[AlignmentHead, ...] = (),
    ) -> None:
        self.sampled: dict[tuple[int, int], list[float]] = {}
        """By seed and index of the token: ban, options, and the window in order of size."""
        self.aligned: dict[int, list[int]] = {}
        """By seed: the text id of each token."""
        options = TorchOptions(
            kernels=StepKernels(sample=self._sample),
            program_sizes=programs,
            program_tokens=limits.max_request_tokens,
            prefill_sizes=(64,) if programs else (),
            alignment=heads,
        )
        self.directory, self.limits = directory, limits
        self.backend, self.scheduler = TorchBackend(model, options=options), Scheduler(limits, earliest_deadline)
        self.backend.reserve(limits.num_blocks, limits.block_size)
        self.live: list[EngineSequence] = []

    def add(self, request: Request, number: int) -> EngineSequence:
        sequence = EngineSequence(request, self.directory, self.limits.max_request_tokens, number)
        self.scheduler.add(sequence)
        self.live.append(sequence)
        return sequence

    def remove(self, sequence: EngineSequence) -> None:
        self.live.remove(sequence)
        self.scheduler.remove(sequence)

    def step(self, num_steps: int) -> None:
        batch = self.scheduler.schedule(num_steps)
        self.take(batch, self.backend.step(batch))

    def take(self, batch: Sequence[ScheduledSequence], found: Sequence[Sequence[int]]) -> None:
        for scheduled, tokens in zip(batch, found, strict=True):
            sequence = scheduled.sequence
            sequence.computed += scheduled.count + max(0, len(tokens) - 1)
            if tokens:
                event = sequence.accept_all(tokens, scheduled.aligned)
                places = self.aligned.setdefault(sequence.request.sampling.seed, [])
                places += [place.position for place in event.aligned]
                if event.last:
                    self.remove(sequence)

    def _sample(self, logits: Tensor, batch: SamplingBatch, bans: Tensor, kinds: Tensor) -> Tensor:
        floats = torch.stack((batch.temperature, batch.top_p, batch.top_k, batch.repeats, kinds), dim=1).tolist()
        rows = zip(batch.seed[:, 0].tolist(), batch.position.tolist(), batch.window.tolist(), floats, strict=True)
        for seed, position, window, row in rows:
            if seed:  # the other rows have no sequence
                self.sampled[seed, position] = [*row, *sorted(window)]
        return PLAIN.sample(logits, batch, bans, kinds)


@contextmanager
def each_run(monkeypatch: pytest.MonkeyPatch, before: Callable[[DecodeProgram], None]) -> Iterator[list[int]]:
    """Call `before` at each launch of a program; yield the number of rows that each launch filled anew."""
    filled: list[int] = []
    launch = DecodeProgram.launch

    def launched(program: DecodeProgram, inputs: DecodeInputs, num_steps: int = 1) -> None:
        def complete(i: int) -> ProgramInput:
            filled[-1] += 1
            return inputs.complete(i)

        filled.append(0)
        before(program)
        launch(program, inputs._replace(complete=complete), num_steps)

    with monkeypatch.context() as patched:
        patched.setattr(DecodeProgram, "launch", launched)
        yield filled


def nothing(program: DecodeProgram) -> None:
    pass


@torch.inference_mode()
def spoken(driver: Driver) -> list[EngineSequence]:
    """Return sequences that join, leave, change places, receive text, and are preempted."""
    rng, sequences = random.Random(4), list[EngineSequence]()
    for turn in range(45):
        if turn < 32 and rng.random() < 0.4:
            number = len(sequences) + 1
            request = Request(
                tuple(range(1, 4 + number % 9)),
                sampling=SamplingOptions(seed=number, temperature=0.5 + number / 10),
                text_order="interleaved" if number % 3 == 0 else "whole",
                max_seconds=2,
            )
            sequences.append(driver.add(request, number))
        if driver.live and rng.random() < 0.3:
            driver.scheduler.set_play_at(rng.choice(driver.live), rng.uniform(0, 9))
        if driver.live and rng.random() < 0.04:
            driver.remove(rng.choice(driver.live))
        driver.step(rng.choice((1, 2, 5)))
    assert driver.scheduler.preemptions > 0
    return sequences


def test_runs_that_continue_the_latest_one_equal_others(
    monkeypatch: pytest.MonkeyPatch, mini_model: SpeechLM, mini_dir: ModelDir
) -> None:
    heads = (AlignmentHead(1, 0, 1.0), AlignmentHead(0, 3, 1.0))
    continuing, filling = (Driver(mini_model, mini_dir, heads=heads) for _ in range(2))
    with each_run(monkeypatch, nothing) as few:
        found = spoken(continuing)
    with each_run(monkeypatch, DecodeProgram.forget) as many:
        assert [sequence.decoded for sequence in spoken(filling)] == [sequence.decoded for sequence in found]
    assert (continuing.sampled, continuing.aligned) == (filling.sampled, filling.aligned)
    assert sum(few) < sum(many) / 2
    # Alone and without programs; some were removed before their end.
    alone = Driver(mini_model, mini_dir, programs=(), heads=heads)
    for number, sequence in enumerate(found, 1):
        reference = alone.add(sequence.request, number)
        while reference in alone.live and len(reference.decoded) < len(sequence.decoded):
            alone.step(1)
        if reference in alone.live:
            alone.remove(reference)
        assert reference.decoded == sequence.decoded
    assert alone.aligned == continuing.aligned
    assert any(len(set(places)) > 2 for places in alone.aligned.values())


def test_only_sequences_that_join_are_filled(
    monkeypatch: pytest.MonkeyPatch, mini_model: SpeechLM, mini_dir: ModelDir
) -> None:
    driver = Driver(mini_model, mini_dir)
    first, *_ = [driver.add(Request(tuple(range(12)), sampling=SamplingOptions(seed=n)), n) for n in range(1, 5)]
    driver.step(4)
    with each_run(monkeypatch, nothing) as filled, torch.inference_mode():
        driver.step(4)
        driver.step(4)
        assert filled == [4, 0]
        driver.remove(first)
        driver.step(4)
        driver.add(Request(tuple(range(12)), sampling=SamplingOptions(seed=9)), 0)  # it is the first in order
        driver.step(4)  # feeds its prompt
        driver.step(4)
        assert filled == [4, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("change", "filled"),
    [
        ({}, []),
        ({"bans": [1, 0]}, []),
        ({"blocks": [[0, 2, 3], [1]]}, []),
        ({"sequences": ["b", "a"], "codes": [642, 643]}, []),
        ({"codes": [642, 642]}, [0]),
        ({"positions": [2, 1]}, [0]),
        ({"draws": [1, 2]}, [1]),
        ({"sequences": ["a", "new"], "codes": [643, 0], "positions": [1, 0], "draws": [1, 0]}, [1]),
    ],
)
@torch.inference_mode()
def test_a_sequence_continues_only_with_the_state_that_the_program_left(
    mini_model: SpeechLM, change: dict[str, Any], filled: list[int]
) -> None:
    """The program has sampled speech id 1 for sequence a and 0 for b; the code of speech id 0 is 642."""
    complete = mock.Mock(return_value=ProgramInput(0, [0], 0, SamplingRow(1, 0, 1.0, 0.8, 5, 9.0, ()), 5))
    cache = KVCache(mini_model.config, 5, 4, torch.device("cpu"), torch.float32)
    bans = torch.zeros((2, mini_model.speech_embedding.num_embeddings), dtype=torch.bool)
    kernels = StepKernels(sample=lambda *inputs: torch.tensor([1, 0]))
    program = DecodeProgram(mini_model, cache, bans, 2, 3, kernels)
    program.run(DecodeInputs(["a", "b"], [5, 6], [0, 0], [0, 0], [0, 0], [[0], [1]], complete))
    complete.reset_mock()
    following = DecodeInputs(["a", "b"], [643, 642], [1, 1], [1, 1], [0, 0], [[0], [1]], complete)
    program.run(following._replace(**change))
    assert [call.args[0] for call in complete.call_args_list] == filled


@torch.inference_mode()
def test_rows_without_a_sequence_read_few_positions_however_many_runs_there_were(mini_model: SpeechLM) -> None:
    """On a GPU such a row would cost as much as a sequence of all these positions."""
    lengths: list[list[int]] = []

    def attend(query: Tensor, layer: int, batch: StepBatch, cache: KVCache) -> Tensor:
        lengths.append(batch.decode_lengths.tolist())
        return PLAIN.attend(query, layer, batch, cache)

    cache = KVCache(mini_model.config, 8, 4, torch.device("cpu"), torch.float32)
    bans = torch.zeros((1, mini_model.speech_embedding.num_embeddings), dtype=torch.bool)
    program = DecodeProgram(mini_model, cache, bans, 3, 6, StepKernels(attend=attend))
    sampling, blocks, steps = SamplingRow(1, 0, 1.0, 0.8, 5, 9.0, ()), list(range(6)), 4
    for start in range(0, 5 * steps, steps):
        item = ProgramInput(start, blocks, 0, sampling, 5)
        program.run(DecodeInputs(["a"], [5], [start], [start], [0], [blocks], lambda i, item=item: item), steps)  # type: ignore[misc]
    longest = sorted(max(row) for row in zip(*lengths, strict=True))
    assert longest == [steps, steps, 5 * steps]


def test_nothing_of_a_failed_step_is_continued(
    monkeypatch: pytest.MonkeyPatch, mini_model: SpeechLM, mini_dir: ModelDir
) -> None:
    """The engine repeats its sequences one by one, and on a GPU a smaller batch may sample other tokens."""
    driver = Driver(mini_model, mini_dir)
    for number in range(1, 5):
        driver.add(Request(tuple(range(12)), sampling=SamplingOptions(seed=number)), number)
    driver.step(4)
    with each_run(monkeypatch, nothing) as filled, torch.inference_mode():
        driver.step(4)
        batch = driver.scheduler.schedule(4)
        with monkeypatch.context() as failing:
            failing.setattr(DecodeProgram, "read", fail)
            with pytest.raises(RuntimeError, match="device"):
                driver.backend.step(batch)
        driver.take(batch, [tokens for one in batch for tokens in driver.backend.step([one])])
        driver.step(4)
        assert filled == [4, 0, *[1] * 4, 4]


def fail(program: DecodeProgram) -> list[list[int]]:
    raise RuntimeError("the device has failed")


def test_the_host_calls_few_functions_per_sequence_and_run(
    monkeypatch: pytest.MonkeyPatch, mini_model: SpeechLM, mini_dir: ModelDir
) -> None:
    """In the scheduler, the backend and the sequences, without the model; 64 sequences of which none joins or ends."""
    limits = EngineLimits(
        max_running=64, total_tokens=64 * 96, max_request_tokens=96, prefill_tokens=4096, block_size=4
    )
    driver, calls = Driver(mini_model, mini_dir, limits, (64,)), 0
    for number in range(1, 65):
        driver.add(Request(tuple(range(20)), sampling=SamplingOptions(seed=number)), number)

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    def speech(program: DecodeProgram) -> None:
        sys.setprofile(None)
        program.advance()
        sys.setprofile(count)

    with torch.inference_mode():
        driver.step(8)
        driver.step(1)
        monkeypatch.setattr(DecodeProgram, "replay", speech)
        driver.step(8)
        before = [len(sequence.decoded) for sequence in driver.live]
        calls = 0
        try:
            driver.step(8)
        finally:
            sys.setprofile(None)
    assert len(before) == len(driver.live) == 64
    assert [len(sequence.decoded) for sequence in driver.live] == [length + 8 for length in before]
    assert 0 < calls / 64 <= MOST_FUNCTIONS
