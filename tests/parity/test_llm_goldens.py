"""The goldens through the whole llm engine, in company: greedy tokens, logits of every step, interleaved text."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from services.common.engine.shell import FailedEvent
from services.llm.engine.engine import LlmEngine
from services.llm.engine.layout import Prompt
from services.llm.engine.scheduler import EngineLimits
from services.llm.engine.sequence import Event, Request, SamplingOptions
from services.llm.engine.sequence import Sequence as LlmSequence
from services.llm.model.model import SpeechLM
from services.llm.model.sampling import CounterDraw, Draw, SamplingBatch, SamplingRow
from services.llm.model.torch_backend import TorchBackend
from tests.parity.golden import Golden, ids

GOLDEN_SEED = 2**63
"""Marks the golden's own rows; what they draw is not random."""
PATIENCE_S = 400.0
DATA = Path(__file__).parents[1] / "data" / "cosyvoice2-mini"


class Scripted:
    """Draws for the golden's rows what it says and for the others what they would draw anyway."""

    def __init__(self, rows: Sequence[SamplingRow], device: torch.device, script: Sequence[int] | None) -> None:
        self._rows, self._script = rows, script
        self._usual: Draw = CounterDraw(SamplingBatch.of(rows, device))

    def nucleus(self, probabilities: Tensor, drawn_from: Tensor, kept: Tensor) -> Tensor:
        chosen = self._usual.nucleus(probabilities, drawn_from, kept)
        for i, row in enumerate(self._rows):
            if row.seed == GOLDEN_SEED:
                wanted = drawn_from[i, 0] if self._script is None else self._script[row.position]
                chosen[i] = (drawn_from[i] == wanted).nonzero()[0, 0]
        return chosen

    def full(self, rows: Tensor, scores: Tensor) -> Tensor:
        return self._usual.full(rows, scores)


class Recording(SpeechLM):
    """Keeps the logits it gave."""

    given: list[Tensor]

    def logits(self, hidden: Tensor) -> Tensor:
        self.given.append(super().logits(hidden))
        return self.given[-1]


@dataclass
class Heard:
    ids: list[int]
    raw_ids: list[int]
    ended: threading.Event

    def __call__(self, event: Event) -> None:
        assert not isinstance(event, FailedEvent), event.error
        self.ids.extend(event.ids)
        self.raw_ids.extend(event.raw_ids)
        if event.last:
            self.ended.set()

    def wait(self) -> Heard:
        assert self.ended.wait(PATIENCE_S)
        return self


def heard() -> Heard:
    return Heard([], [], threading.Event())


def company(number: int) -> Request:
    prompt = Prompt(tuple(range(number % 5)), tuple(101 * k for k in range(3 * number % 23)))
    return Request(tuple(range(1, 2 + number)), prompt, SamplingOptions(seed=number), max_seconds=1.0)


@pytest.fixture(scope="module")
def golden() -> Iterator[Golden]:
    torch.set_num_threads(1)
    with Golden(DATA) as opened:
        yield opened


@pytest.fixture(scope="module")
def recording(golden: Golden) -> Iterator[Recording]:
    model: Any = golden.speech_lm
    usual = model.__class__
    model.__class__ = Recording
    assert isinstance(model, Recording)
    yield model
    model.__class__ = usual


@settings(max_examples=10)
@given(
    before=st.lists(st.integers(0, 9), max_size=4),
    after=st.lists(st.integers(0, 9), max_size=4),
    prefill=st.integers(1, 64),
    max_running=st.integers(2, 8),
    total_tokens=st.integers(160, 600),
)
def test_greedy_tokens_and_logits_in_any_company(
    golden: Golden,
    recording: Recording,
    before: list[int],
    after: list[int],
    prefill: int,
    max_running: int,
    total_tokens: int,
) -> None:
    arrays = golden.arrays("llm.npz")
    expected = ids(arrays["greedy_tokens"])
    request = Request(
        ids(arrays["text"]),
        Prompt(ids(arrays["prompt_text"]), ids(arrays["prompt_speech_token"])),
        SamplingOptions(seed=GOLDEN_SEED, ras=False, top_k=1),
        max_seconds=len(expected) / golden.model.token_rate,
    )
    positions: list[tuple[int, int]] = []
    recording.given = []

    def draw(rows: Sequence[SamplingRow], device: torch.device) -> Draw:
        at = len(recording.given)  # the logits follow
        positions.extend((at, i) for i, row in enumerate(rows) if row.seed == GOLDEN_SEED)
        return Scripted(rows, device, None)

    limits = EngineLimits(
        max_running=max_running,
        prefill_tokens=prefill,
        total_tokens=total_tokens,
        max_request_tokens=160,
        block_size=4,
    )
    engine = LlmEngine(TorchBackend(recording, draw), golden.model, limits)
    try:
        others = [heard() for _ in before + after]
        listener = heard()
        for number, other in zip(before, others, strict=False):
            engine.submit(company(number), other)
        engine.submit(request, listener)
        for number, other in zip(after, others[len(before) :], strict=True):
            engine.submit(company(number), other)
        assert tuple(listener.wait().raw_ids) == expected
        for other in others:
            other.wait()
    finally:
        engine.close()
    logits = torch.stack([recording.given[step][row] for step, row in positions])
    close = golden.tolerance["logits"]
    torch.testing.assert_close(logits, torch.from_numpy(np.asarray(arrays["step_logits"])), atol=close, rtol=0)


@pytest.mark.parametrize("name", ["a_prompt", "b_noprompt", "c_earlyfill", "d_shorttext", "e_promptdropped"])
@pytest.mark.parametrize("piece", [1, 3, 100])
def test_interleaved_goldens(golden: Golden, name: str, piece: int) -> None:
    arrays = golden.arrays(f"bistream_{name}.npz")
    text = ids(arrays["text"])
    request = Request(
        text,
        Prompt(ids(arrays["prompt_text"]), ids(arrays["prompt_speech_token"])),
        SamplingOptions(seed=GOLDEN_SEED, ras=False, top_p=1.0, top_k=7000),
        text_order="interleaved",
    )
    script = by_position(arrays["script"].tolist(), request, golden)
    backend = TorchBackend(golden.speech_lm, lambda rows, device: Scripted(rows, device, script))
    engine = LlmEngine(backend, golden.model)
    try:
        listener, other = heard(), heard()
        engine.submit(replace(company(4), text_order="interleaved"), other)
        handle = engine.submit(replace(request, text_ids=(), text_complete=False), listener)
        for start in range(0, len(text), piece):
            engine.append_text(handle, text[start : start + piece])
        engine.end_text(handle)
        assert listener.wait().ids == arrays["yielded_tokens"].tolist()
        other.wait()
    finally:
        engine.close()


def by_position(script: list[int], request: Request, golden: Golden) -> list[int]:
    """The scripted ids by the position they are drawn at: the golden's script leaves the forced fill ids out."""
    sequence, left, placed = LlmSequence(request, golden.model, 4096, 0), iter(script), []
    while sequence.finish_reason is None:
        forced = sequence.layout.constraint().forced
        placed.append(next(left) if forced is None else forced)
        sequence.accept(placed[-1])
    return placed
