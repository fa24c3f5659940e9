"""Helpers of the decode tests: synthetic voices, a listener, and engines that are closed at the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.common.checkpoint.model_dir import ModelDir, open_model_dir
from services.common.engine.shell import FailedEvent
from services.decode.engine.backends import Backend
from services.decode.engine.engine import DecodeEngine
from services.decode.engine.events import AudioEvent, Event
from services.decode.engine.scheduler import EngineLimits
from services.decode.engine.state import StreamSpec
from services.decode.engine.torch_backend import TorchBackend

ROOT = Path(__file__).parents[3]
TIMEOUT = 400.0
"""Seconds after which a test stops waiting for an engine; it measures nothing."""


FAMILIES = ("cosyvoice2", "cosyvoice3")
STREAMED = 5e-4
"""Largest difference of a sample between a stream and one shot of the same chunk plan.

The mel differs by float32 rounding (2e-6), which pitch turns into phase, and phase adds up: 2.5e-4 was seen.
"""


EULER_STEPS = 4
"""Fewer than the checkpoints' ten, because each step costs the same time and none differs from the others."""


def mini(family: str = "cosyvoice2") -> ModelDir:
    """The family's checkpoint with random weights, in EULER_STEPS steps."""
    model = open_model_dir(ROOT / "tests" / "data" / f"{family}-mini")
    return replace(model, flow=replace(model.flow, solver=replace(model.flow.solver, steps=EULER_STEPS)))


@cache
def mini_backend(family: str = "cosyvoice2") -> TorchBackend:
    """The random-weight checkpoint, warmed; shared, since it holds no state of a stream."""
    backend = TorchBackend(mini(family))
    backend.warm_up()
    return backend


def voice(prompt: int = 30, **options: Any) -> StreamSpec:
    """A synthetic voice with `prompt` tokens; `options` are StreamSpec's."""
    rng = np.random.default_rng(prompt)
    return StreamSpec(
        prompt_tokens=rng.integers(0, 700, prompt).astype(np.int32),
        prompt_mel=(2 * rng.standard_normal((2 * prompt, 80)) - 5).astype(np.float32),
        embedding=rng.standard_normal(192).astype(np.float32),
        **options,
    )


def speech(count: int, seed: int = 0) -> list[int]:
    """`count` token ids."""
    return [int(token) for token in np.random.default_rng(seed).integers(0, 700, count)]


class Listener:
    """Collects a stream's events. `wait` returns the audio or raises the error of the stream."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.changed = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    @property
    def audio_events(self) -> list[AudioEvent]:
        return [event for event in self.events if isinstance(event, AudioEvent)]

    def wait_events(self, count: int) -> list[AudioEvent]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.events) >= count, TIMEOUT)
        return self.audio_events

    def wait(self) -> NDArray[np.float32]:
        with self.changed:
            assert self.changed.wait_for(lambda: bool(self.events) and self._ended(), TIMEOUT)
        end = self.events[-1]
        if isinstance(end, FailedEvent):
            raise end.error
        return joined(self.audio_events)

    def _ended(self) -> bool:
        end = self.events[-1]
        return isinstance(end, FailedEvent) or end.last


def joined(events: Sequence[AudioEvent]) -> NDArray[np.float32]:
    """The events' samples; checks that each starts where the previous one ended."""
    for before, after in pairwise(events):
        assert after.first_sample == before.first_sample + before.samples.shape[0]
    return np.concatenate([event.samples for event in events])


@contextmanager
def running(backend: Backend, limits: EngineLimits | None = None, **options: Any) -> Iterator[DecodeEngine]:
    """An engine that refuses no stream for the time which this machine takes for its batches."""
    engine = DecodeEngine(backend, replace(limits or EngineLimits(), admission=False), **options)
    try:
        yield engine
    finally:
        engine.close()


def speak(engine: DecodeEngine, spec: StreamSpec, tokens: Sequence[int], feed: int = 1000) -> Listener:
    """Opens a stream and pushes all tokens, `feed` at a time."""
    listener = Listener()
    handle = engine.open(spec, listener)
    pieces = [tokens[start : start + feed] for start in range(0, len(tokens), feed)]
    for piece in pieces[:-1]:
        engine.push(handle, piece)
    engine.push(handle, pieces[-1] if pieces else [], last=True)
    return listener


def wait_until(condition: Any) -> None:
    """Waits until `condition()` holds."""
    pause = threading.Event()
    for _ in range(int(TIMEOUT / 0.005)):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("the condition never came true")
