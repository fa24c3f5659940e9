"""The vocoder as a stream: for any hops, the samples are those of one run over the whole mel."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from services.common.checkpoint.model_dir import open_model_dir
from services.decode.engine.speed import frames_ready
from services.decode.vocoder.build import build_vocoder
from services.decode.vocoder.context import layer_bound, measure_context
from services.decode.vocoder.source import NoiseTable
from services.decode.vocoder.stream import Context, Vocoder, VocoderState
from services.decode.vocoder.stretch import Stretch
from tests.unit.decode import decode_support as support

FRAMES = 150
BOTH = pytest.mark.parametrize("family", ["cosyvoice2", "cosyvoice3"])


@cache
def vocoder(family: str = "cosyvoice2") -> Vocoder:
    """The family's mini vocoder, its context measured on another mel than the tests use."""
    made = build_vocoder(open_model_dir(support.ROOT / "tests" / "data" / f"{family}-mini"))
    made.context = measure_context(made, mel(seed=4), cuts=4)
    return made


@cache
def mel(seed: int = 5) -> Tensor:
    """A mel that varies like speech."""
    generator = torch.Generator().manual_seed(seed)
    slow = torch.randn(FRAMES // 10 + 1, 80, generator=generator).repeat_interleave(10, dim=0)[:FRAMES]
    return 2.0 * slow + 0.7 * torch.randn(FRAMES, 80, generator=generator) - 5.0


@cache
def one_shot(family: str = "cosyvoice2") -> Tensor:
    return vocoder(family).append(vocoder(family).open(seed=3), mel(), last=True)


def streamed(hops: list[int], family: str = "cosyvoice2", seed: int = 3) -> Tensor:
    voc = vocoder(family)
    state, pieces, start = voc.open(seed), [], 0
    for hop in hops:
        pieces.append(voc.append(state, mel()[start : start + hop], last=False))
        start += hop
    pieces.append(voc.append(state, mel()[start:], last=True))
    return torch.cat(pieces)


@BOTH
@settings(max_examples=10)
@given(hops=st.lists(st.integers(0, 60), max_size=6).filter(lambda hops: sum(hops) <= FRAMES))
def test_any_hops_give_the_samples_of_one_shot(family: str, hops: list[int]) -> None:
    audio = streamed(hops, family)
    assert audio.shape[0] == 480 * FRAMES
    assert float((audio - one_shot(family)).abs().max()) <= 1e-4


@BOTH
def test_the_layers_bound_is_exact(family: str) -> None:
    voc, measured = vocoder(family), vocoder(family).context
    voc.context = layer_bound(voc.config)
    try:
        error = (streamed([45, 7, 1, 33], family) - one_shot(family)).abs().max()
    finally:
        voc.context = measured
    assert float(error) < 3e-6


def test_the_causal_bound_is_as_large_as_it_must_be() -> None:
    """One frame less on the right is audible, and two thirds of the left bound are not exact."""
    voc, measured = vocoder("cosyvoice3"), vocoder("cosyvoice3").context
    bound = layer_bound(voc.config)
    errors = []
    for context in (Context(bound.left, bound.right - 1), Context(bound.left // 3, bound.right)):
        voc.context = context
        try:
            errors.append(float((streamed([45, 7, 1, 33], "cosyvoice3") - one_shot("cosyvoice3")).abs().max()))
        finally:
            voc.context = measured
    assert min(errors) > 5e-6


def test_a_causal_vocoder_gives_exactly_the_beginning_of_the_whole() -> None:
    """Its right context is fixed: five frames, whatever the mel; upstream holds back eight."""
    voc = vocoder("cosyvoice3")
    assert voc.context.right == layer_bound(voc.config).right == 5
    begun = voc.append(voc.open(seed=3), mel(), last=False)
    assert begun.shape[0] == 480 * (FRAMES - 5)
    assert torch.equal(begun, one_shot("cosyvoice3")[: begun.shape[0]])


@BOTH
def test_the_measured_context_is_smaller_than_the_layers_bound(family: str) -> None:
    bound = layer_bound(vocoder(family).config)
    measured = measure_context(vocoder(family), mel(), cuts=4)
    assert 0 < measured.left < bound.left
    assert 0 < measured.right < bound.right or (family == "cosyvoice3" and measured.right == bound.right)
    assert measure_context(vocoder(family), mel()[:20]) == bound


@BOTH
def test_a_stream_continues_elsewhere_from_its_context_and_phase(family: str) -> None:
    """What a resume record holds: the mel of the left context, and the running sum of the phase."""
    voc = vocoder(family)
    state = voc.open(seed=3)
    before = voc.append(state, mel()[:90], last=False)
    context = state.mel[: state.emitted - state.start]
    moved = VocoderState(3, state.phase.cpu().clone(), context.clone(), state.emitted, state.start)
    assert context.nbytes < 20_000
    after = voc.append(moved, mel()[state.emitted :], last=True)
    assert float((torch.cat((before, after)) - one_shot(family)).abs().max()) <= 1e-4


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


@BOTH
def test_seeds_change_the_noise_and_nothing_else(family: str) -> None:
    other = streamed([50], family, seed=4)
    assert not torch.equal(other, one_shot(family))
    assert float((other - one_shot(family)).abs().mean()) < 0.1


def test_unvoiced_frames_have_noise_of_their_own_amplitude_and_no_sine() -> None:
    """Half of the frames are unvoiced (f0 at most 10 Hz): upstream's amplitudes are 0.003 and 0.1 / 3."""
    for family in ("cosyvoice2", "cosyvoice3"):
        source = vocoder(family).source
        f0 = torch.tensor([200.0, 9.9] * 4, dtype=torch.float64)
        phase = torch.full((8, source.harmonics), 0.25, dtype=torch.float64)  # the sine's crest
        quiet = source.sines(f0, phase, phase[0], torch.zeros(8 * 480, source.harmonics)).view(8, 480, -1)
        noisy = source.sines(f0, phase, phase[0], torch.ones(8 * 480, source.harmonics)).view(8, 480, -1)
        assert torch.allclose(quiet[0::2], torch.tensor(0.1))
        assert torch.equal(quiet[1::2], torch.zeros_like(quiet[1::2]))
        assert torch.allclose((noisy - quiet)[0::2], torch.tensor(0.003), atol=1e-7)
        assert torch.allclose(noisy[1::2], torch.tensor(0.1 / 3), atol=1e-7)
        assert torch.equal(
            source.sines(f0.clamp(max=10.0), phase, phase[0], torch.zeros(8 * 480, 9)), 0 * quiet.flatten(0, 1)
        )


def test_noise_is_a_function_of_the_absolute_sample() -> None:
    table = NoiseTable(harmonics=3, period=1000)
    whole = table.read(seed=7, start=0, count=2500)
    assert torch.equal(whole[1700:1900], table.read(seed=7, start=1700, count=200))
    assert torch.equal(whole[:1000], whole[1000:2000])
    assert torch.equal(NoiseTable(harmonics=3, period=1000).read(7, 0, 2500), whole)
    assert whole[:1000].mean().abs() < 0.1
    assert (whole[:1000].std() - 1).abs() < 0.05


def test_uniform_noise_fills_the_unit_interval_and_never_reaches_1() -> None:
    assert float(vocoder("cosyvoice3").noise.read(7, 0, 900).min()) >= 0 > float(vocoder().noise.read(7, 0, 900).min())
    draws = NoiseTable(harmonics=9, period=4000, uniform=True).read(seed=7, start=0, count=4000)
    assert float(draws.min()) >= 0
    assert float(draws.max()) < 1
    counts = torch.histc(draws, bins=10, min=0, max=1)
    assert float((counts - 3600).abs().max()) < 250
    assert draws[:2, 0].tolist() == NoiseTable(harmonics=9, period=4000, uniform=True).read(7, 0, 2)[:, 0].tolist()


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
