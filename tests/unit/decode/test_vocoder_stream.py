"""The vocoder as a stream: for any hops, the samples are those of one run over the whole mel."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from services.decode.engine.speed import frames_ready
from services.decode.vocoder.context import layer_bound, measure_context
from services.decode.vocoder.source import NoiseTable
from services.decode.vocoder.stream import Vocoder
from services.decode.vocoder.stretch import Stretch
from tests.unit.decode import decode_support as support

FRAMES = 150


def vocoder() -> Vocoder:
    return support.mini_backend().vocoder


@cache
def mel() -> Tensor:
    """A mel that varies like speech, different from the one that the context was measured on."""
    generator = torch.Generator().manual_seed(5)
    slow = torch.randn(FRAMES // 10 + 1, 80, generator=generator).repeat_interleave(10, dim=0)[:FRAMES]
    return 2.0 * slow + 0.7 * torch.randn(FRAMES, 80, generator=generator) - 5.0


@cache
def one_shot() -> Tensor:
    return vocoder().append(vocoder().open(seed=3), mel(), last=True)


def streamed(hops: list[int], seed: int = 3) -> Tensor:
    state, pieces, start = vocoder().open(seed), [], 0
    for hop in hops:
        pieces.append(vocoder().append(state, mel()[start : start + hop], last=False))
        start += hop
    pieces.append(vocoder().append(state, mel()[start:], last=True))
    return torch.cat(pieces)


@settings(max_examples=15)
@given(st.lists(st.integers(0, 60), max_size=6).filter(lambda hops: sum(hops) <= FRAMES))
def test_any_hops_give_the_samples_of_one_shot(hops: list[int]) -> None:
    audio = streamed(hops)
    assert audio.shape[0] == 480 * FRAMES
    assert float((audio - one_shot()).abs().max()) <= 1e-4


def test_the_layers_bound_is_exact() -> None:
    voc, measured = vocoder(), vocoder().context
    voc.context = layer_bound(voc.config)
    try:
        error = (streamed([40, 7, 1, 33]) - one_shot()).abs().max()
    finally:
        voc.context = measured
    assert float(error) < 2e-6


def test_the_measured_context_is_smaller_than_the_layers_bound() -> None:
    bound = layer_bound(vocoder().config)
    measured = measure_context(vocoder(), mel())
    assert 0 < measured.left < bound.left
    assert 0 < measured.right < bound.right
    assert measure_context(vocoder(), mel()[:20]) == bound


def test_a_batch_that_fails_changes_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        """A context that fails when the second stream is about to drop its old frames."""

        right, reads = vocoder().context.right, 0

        @property
        def left(self) -> int:
            self.reads += 1
            if self.reads == 2:
                raise MemoryError
            return 20

    states = [vocoder().open(seed=3) for _ in range(2)]
    pieces = [(state, mel()[:60], False) for state in states]
    with monkeypatch.context() as patch:
        patch.setattr(vocoder(), "context", Failing())
        with pytest.raises(MemoryError):
            vocoder().append_all(pieces)
    assert [(state.emitted, state.mel.shape[0]) for state in states] == [(0, 0), (0, 0)]
    for samples in vocoder().append_all(pieces):
        assert float((samples - one_shot()[: samples.shape[0]]).abs().max()) <= 1e-4


def test_seeds_change_the_noise_and_nothing_else() -> None:
    other = streamed([50], seed=4)
    assert not torch.equal(other, one_shot())
    assert float((other - one_shot()).abs().mean()) < 0.1


def test_noise_is_a_function_of_the_absolute_sample() -> None:
    table = NoiseTable(harmonics=3, period=1000)
    whole = table.read(seed=7, start=0, count=2500)
    assert torch.equal(whole[1700:1900], table.read(seed=7, start=1700, count=200))
    assert torch.equal(whole[:1000], whole[1000:2000])
    assert torch.equal(NoiseTable(harmonics=3, period=1000).read(7, 0, 2500), whole)
    assert whole[:1000].mean().abs() < 0.1
    assert (whole[:1000].std() - 1).abs() < 0.05


@pytest.mark.parametrize("speed", [0.5, 0.77, 1.0, 1.3, 2.0])
def test_stretching_in_pieces_is_stretching_at_once(speed: float) -> None:
    whole = Stretch(speed).append(mel(), last=True)
    assert whole.shape[0] == int(FRAMES / speed)
    stretch, pieces, start = Stretch(speed), [], 0
    for size in (1, 2, 40, 0, 50, 57):
        pieces.append(stretch.append(mel()[start : start + size], last=start + size == FRAMES))
        start += size
        assert sum(piece.shape[0] for piece in pieces) == frames_ready(start, speed, start == FRAMES)
    assert torch.allclose(torch.cat(pieces), whole, atol=1e-5)


def test_stretching_interpolates_as_upstream_does() -> None:
    speed = 2.0
    expected = torch.nn.functional.interpolate(mel().T[None], size=int(FRAMES / speed), mode="linear")[0].T
    assert torch.allclose(Stretch(speed).append(mel(), last=True), expected, atol=1e-5)
