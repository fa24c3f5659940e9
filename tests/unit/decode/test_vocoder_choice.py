"""On a GPU the vocoder's convolutions have the form that is the fastest there and gives the plain samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from services.decode import loading
from services.decode.engine import fastest
from services.decode.settings import DecodeSettings
from services.decode.vocoder.activation import ConvolveJoin, Snake, convolve_join_plain
from services.decode.vocoder.build import build_vocoder
from services.decode.vocoder.choice import batch_seconds, fastest_forms
from services.decode.vocoder.conv import Conv
from services.decode.vocoder.programs import WindowProgram
from services.decode.vocoder.stream import Context, Vocoder, Window
from tests.support.logs import capture_logs
from tests.unit.decode import decode_support as support

CHUNK = 20
"""Frames; a fraction of the real 50 saves time."""
BETWEEN, WHOLE = "kernel between convolutions", "kernel of convolutions"


class Form:
    """The plain form, which also counts, and may raise an error or multiply its results."""

    def __init__(self, error: Exception | None = None, factor: float = 1.0) -> None:
        self.calls, self._error, self._factor = 0, error, factor

    def __call__(
        self, wave: Tensor, conv: Conv | None, known: Tensor, shortcut: Tensor | None, snake: Snake | None
    ) -> tuple[Tensor, Tensor]:
        self.calls += 1
        if self._error is not None:
            raise self._error
        total, after = convolve_join_plain(wave, conv, known, shortcut, snake)
        return total, self._factor * after


def vocoder() -> Vocoder:
    made = build_vocoder(support.mini())
    made.context = Context(11, 14)
    return made


def clock(*seconds: float) -> Callable[[Callable[[], None]], float]:
    """Takes these times for the calls, one after the other."""
    left = list(seconds)

    def measure(work: Callable[[], None]) -> float:
        work()
        return left.pop(0)

    return measure


def first_choice(vocoder: Vocoder, forms: dict[str, ConvolveJoin], *seconds: float) -> list[str]:
    return list(fastest_forms(vocoder, 2, CHUNK, None, forms, loading._leave_out, clock(*seconds)))


@pytest.mark.parametrize(
    ("between", "whole", "order"), [(0.004, 0.003, [WHOLE, BETWEEN]), (0.003, 0.004, [BETWEEN, WHOLE])]
)
def test_the_faster_form_comes_first_and_the_log_has_both_times(
    between: float, whole: float, order: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The least time of each counts: others may share the card."""
    monkeypatch.setattr(fastest, "REPEATS", 2)
    over, forms = vocoder(), {BETWEEN: Form(), WHOLE: Form()}
    with capture_logs() as lines:
        assert first_choice(over, {**forms}, 0.9, between, whole, 0.9) == order
    assert [form.calls > 0 for form in forms.values()] == [True, True]
    (line,) = lines
    assert line["milliseconds"] == {BETWEEN: 1e3 * between, WHOLE: 1e3 * whole}
    assert line["fastest"] == order[0]
    assert over.generator.convolve is None
    assert over.programs is None


def test_a_form_that_raises_is_left_out_and_one_without_memory_is_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastest, "REPEATS", 1)
    forms: dict[str, ConvolveJoin] = {
        "large": Form(torch.OutOfMemoryError("out of memory")),
        BETWEEN: Form(),
        WHOLE: Form(TypeError("no such instruction")),
    }
    with capture_logs() as lines:
        assert first_choice(vocoder(), forms, 0.5) == [BETWEEN, "large"]
    assert lines[0]["instead"] == f"the vocoder without the {WHOLE}"
    assert lines[0]["reason"] == "no such instruction"
    assert lines[1]["milliseconds"] == {BETWEEN: 500.0}


def test_the_batch_that_is_timed_has_a_chunk_of_every_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    frames: list[list[int]] = []
    fill = WindowProgram.fill

    def filled(program: WindowProgram, windows: Sequence[Window]) -> None:
        frames.append([window.frames for window in windows])
        fill(program, windows)

    monkeypatch.setattr(WindowProgram, "fill", filled)
    assert batch_seconds(vocoder(), 3, CHUNK, None, None, clock(*[1.0] * fastest.REPEATS)) == 1.0
    assert frames == [[11 + 14 + CHUNK] * 3]


@pytest.mark.parametrize(
    ("forms", "used", "left_out", "reason"),
    [
        ({WHOLE: Form(), BETWEEN: Form()}, WHOLE, [], ""),
        ({WHOLE: Form(factor=1.1), BETWEEN: Form()}, BETWEEN, [WHOLE], "differ from the plain ones"),
        ({WHOLE: Form(factor=1.1), BETWEEN: Form(TypeError("no driver"))}, None, [WHOLE, BETWEEN], "no driver"),
        ({}, None, [], ""),
    ],
    ids=["the fastest works", "the fastest is wrong", "none works", "none could be timed"],
)
def test_the_fastest_form_that_gives_the_plain_samples_is_used(
    forms: dict[str, ConvolveJoin],
    used: str | None,
    left_out: list[str],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loading, "fastest_forms", lambda *parts: forms)
    monkeypatch.setattr(loading, "vocoder_forms", lambda: forms)
    monkeypatch.setattr(loading, "CudaGraphs", lambda device: None)
    over = vocoder()
    backend: Any = SimpleNamespace(vocoder=over, chunk_frames=CHUNK)
    with capture_logs() as lines:
        loading._record_vocoder(DecodeSettings(), backend, 1, torch.device("cuda"))
    assert over.generator.convolve is (None if used is None else forms[used])
    assert over.programs is not None
    refused = [line for line in lines if line.get("setting") == "decode_fused_kernels"]
    assert [line["instead"] for line in refused] == [f"the vocoder without the {name}" for name in left_out]
    assert reason in "".join(line["reason"] for line in refused[-1:])


@pytest.mark.parametrize("missing", [True, False], ids=["no triton", "no recording"])
def test_the_vocoder_runs_without_triton_and_without_graphs(missing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def forms() -> dict[str, ConvolveJoin]:
        if missing:
            raise ModuleNotFoundError("No module named 'triton'")
        return {}

    def refuse(run: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(loading, "vocoder_forms", forms)
    monkeypatch.setattr(loading, "CudaGraphs", lambda device: None if missing else refuse)
    over = vocoder()
    backend: Any = SimpleNamespace(vocoder=over, chunk_frames=CHUNK)
    with capture_logs() as lines:
        loading._record_vocoder(DecodeSettings(), backend, 1, torch.device("cuda"))
    assert (over.programs is not None) is missing
    (refused,) = [line for line in lines if "setting" in line]
    setting, reason = ("decode_fused_kernels", "triton") if missing else ("decode_cuda_graphs", "not permitted")
    assert refused["setting"] == setting
    assert reason in refused["reason"]
