"""The llm engine: recorded steps against unrecorded ones, and the time of a step."""

from __future__ import annotations

import contextlib
import queue
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from unittest import mock

import torch

from benchmarks.gpu_check.check import TINY, Check, name_of
from benchmarks.gpu_check.kernel import step_kernels
from benchmarks.llm_peers import FULL_SIZE, random_model
from services.common.checkpoint.model_dir import AlignmentHead, ModelDir, open_model_dir
from services.common.engine.shell import FailedEvent
from services.llm.engine.engine import LlmEngine
from services.llm.engine.layout import Prompt
from services.llm.engine.scheduler import EngineLimits, ScheduledSequence
from services.llm.engine.sequence import Event, Request, SamplingOptions
from services.llm.model.decode_program import Program
from services.llm.model.kernels import StepKernels
from services.llm.model.model import SpeechLM, load_speech_lm
from services.llm.model.torch_backend import TorchBackend, TorchOptions

SEQUENCES = 12
MOST_SEQUENCES = 16
REQUEST_TOKENS = 512
PROGRAM_SIZES = (1, 4, MOST_SEQUENCES)
PREFILL_SIZES = (64, 256)
TEXT_VOCAB = 2000
"""Text ids of the random model: the official number would only cost memory and time."""
NUM_STEPS = (8, 1)
"""Steps in a row before the host reads the tokens."""


def load_llm(check: Check, dtype: torch.dtype) -> tuple[ModelDir, SpeechLM]:
    """Return the embedded voice's model, or random weights of the 0.5B layout, on the checked device."""
    model_dir = open_model_dir(TINY)
    if check.tiny:
        return model_dir, load_speech_lm(model_dir, torch.device(check.device), dtype)
    model_dir, model = random_model(model_dir, replace(FULL_SIZE, text_vocab=TEXT_VOCAB), dtype)
    return model_dir, model.to(check.device)


def make_engine(backend: TorchBackend, model_dir: ModelDir, steps_per_turn: int) -> LlmEngine:
    """Make an engine with room for MOST_SEQUENCES requests of REQUEST_TOKENS."""
    limits = EngineLimits(
        max_running=MOST_SEQUENCES,
        total_tokens=MOST_SEQUENCES * REQUEST_TOKENS,
        max_request_tokens=REQUEST_TOKENS,
        steps_per_turn=steps_per_turn,
    )
    return LlmEngine(backend, model_dir, limits)


class CountingBackend(TorchBackend):
    """Counts its steps by program, recorded or not."""

    def __init__(self, model: SpeechLM, options: TorchOptions) -> None:
        super().__init__(model, options=options)
        self.ran: Counter[str] = Counter()

    def step(self, batch: Sequence[ScheduledSequence]) -> list[Sequence[int]]:
        self.latest_program = None
        drawn = super().step(batch)
        program = self.latest_program
        how = "without a program"
        if program is not None:
            how = f"{'graph' if program.recorded else 'unrecorded program'} of {program.size} rows"
        self.ran[how] += 1
        return drawn


@dataclass
class Generated:
    """The ids of all sequences by number, and the kinds of their steps."""

    ids: dict[int, list[int]] = field(default_factory=dict)
    places: dict[int, list[int]] = field(default_factory=dict)
    """The text ids that they speak."""
    ran: Counter[str] = field(default_factory=Counter)
    start_s: float = 0.0
    """Time to start the engine, recording included."""

    @property
    def count(self) -> int:
        return sum(map(len, self.ids.values()))


def llm_exact(check: Check) -> None:
    """Generate the same sequences in recorded, unrecorded and plain steps; the first two must agree exactly.

    In float32 and in the device's own precision.
    """
    for dtype in dict.fromkeys((torch.float32, check.compute)):
        name = name_of(dtype)
        model_dir, model = load_llm(check, dtype)
        kernels = step_kernels(check, model)
        unrecorded = generate(check, model_dir, model, kernels, programs=PROGRAM_SIZES, record=False, num_steps=8)
        recorded = generate(check, model_dir, model, kernels, programs=PROGRAM_SIZES, record=True, num_steps=8)
        plain = generate(check, model_dir, model, kernels, programs=(), record=False, num_steps=1)
        check.report(f"{name}: steps by kind", [f"{count} x {how}" for how, count in recorded.ran.items()])
        check.report(f"{name}: start with {len(PROGRAM_SIZES)} programs, s", round(recorded.start_s, 2))
        check.expect(f"{name}: recorded equals unrecorded", recorded.ids == unrecorded.ids, f"{recorded.count} tokens")
        check.expect(f"{name}: recorded aligns as unrecorded", recorded.places == unrecorded.places)
        if check.on_gpu:
            check.expect(f"{name}: steps ran as graphs", any(how.startswith("graph") for how in recorded.ran))
        same = sum(
            a == b for i in plain.ids for a, b in zip(plain.ids[i], recorded.ids[i], strict=False)
        )  # a sequence may end earlier
        check.report(f"{name}: tokens equal to plain steps", f"{same} of {plain.count}")


def generate(
    check: Check,
    model_dir: ModelDir,
    model: SpeechLM,
    kernels: StepKernels,
    *,
    programs: tuple[int, ...],
    record: bool,
    num_steps: int,
) -> Generated:
    """Generate SEQUENCES sequences of up to 3 s at once. Raises the error of a failed one."""
    prefill = PREFILL_SIZES if programs else ()
    # Heads of two layers, and two that share their keys; those of random weights follow nothing, but must agree.
    heads = tuple(AlignmentHead(layer, head, 1.0) for layer, head in ((0, 0), (0, 1), (1, 0)))
    options = TorchOptions(False, kernels, programs, REQUEST_TOKENS, prefill, alignment=heads)
    backend = CountingBackend(model, options)
    generated = Generated(ran=backend.ran)
    events: queue.SimpleQueue[tuple[int, Event]] = queue.SimpleQueue()
    unrecorded = mock.patch.object(Program, "record", lambda program, pool=None: pool)
    engines: list[LlmEngine] = []
    with contextlib.nullcontext() if record else unrecorded:
        generated.start_s = check.seconds(lambda: engines.append(make_engine(backend, model_dir, num_steps)))
    (engine,) = engines
    with contextlib.closing(engine):
        for number in range(SEQUENCES):
            prompt = Prompt((), tuple(range(40 + number)))
            request = Request(tuple(range(3, 20 + number)), prompt, SamplingOptions(seed=number), max_seconds=3.0)
            engine.submit(request, lambda event, number=number: events.put((number, event)))  # type: ignore[misc]
        live = SEQUENCES
        while live:
            number, event = events.get(timeout=60)
            if isinstance(event, FailedEvent):
                raise event.error
            generated.ids.setdefault(number, []).extend(event.raw_ids)
            generated.places.setdefault(number, []).extend(place.position for place in event.aligned)
            live -= event.last
    return generated


def llm_speed(check: Check) -> None:
    """Run `benchmarks.llm` with tokens read at every eighth and at every step."""
    batches = ("1", "16", "64", "256") if check.on_gpu else ("1", "2")
    command = [sys.executable, "-m", "benchmarks.llm", "--device", check.device, "--no-transformers"]
    command += ["--dtypes", name_of(check.compute), "--batches", *batches, "--steps", "48" if check.on_gpu else "8"]
    command += [] if check.tiny else ["--full-size"]
    for num_steps in NUM_STEPS:
        done = subprocess.run([*command, "--num-steps", str(num_steps)], capture_output=True, text=True, check=False)
        check.report(f"benchmarks.llm --num-steps {num_steps}", done.stdout.strip() + "\n")
        if done.returncode:
            check.expect(f"benchmarks.llm --num-steps {num_steps} ends well", False, done.stderr.strip()[-400:])
