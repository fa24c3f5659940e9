"""The vocoder against the golden arrays, each part fed with the golden input of that part."""

from __future__ import annotations

import decode_golden as mini
import torch
from torch import Tensor

from services.decode.vocoder.pitch import accumulate, cycles_per_frame, voiced


def difference(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return float((actual - expected).abs().max())


@torch.inference_mode()
def sines(noise: Tensor | None = None) -> Tensor:
    golden, voc = mini.golden("hift"), mini.vocoder()
    f0 = voc.pitch(golden["mel"].double())[0]
    turns = cycles_per_frame(f0, voc.source.harmonics, voc.config.sample_rate, voc.config.hop)
    draws = torch.zeros(28800, voc.source.harmonics)
    if noise is not None:
        draws[: noise.shape[0]] = noise
    return voc.source.sines(f0, accumulate(turns, turns.new_zeros(voc.source.harmonics)), None, draws)


@torch.inference_mode()
def test_pitch() -> None:
    golden, voc = mini.golden("hift"), mini.vocoder()
    f0 = voc.pitch(golden["mel"].double())
    assert difference(f0, golden["f0"].double()) < 5e-3
    uv = voiced(f0[0], voc.config.voiced_threshold, voc.config.hop)[:: voc.config.hop]
    assert torch.equal(uv[:, 0], golden["f0"][0] > voc.config.voiced_threshold)


@torch.inference_mode()
def test_source() -> None:
    golden, source = mini.golden("hift"), mini.vocoder().source
    assert difference(sines()[:4800], golden["sine_zero_noise_first4800"][0]) < 2e-3
    silent = source.l_linear(sines()).tanh().T[None]
    assert difference(silent, golden["source_zero_noise"]) < 2e-3
    assert difference(mini.zero_noise_source(golden["mel"][0].T)[None, None], golden["source_zero_noise"]) < 2e-3
    noisy = source.l_linear(sines(golden["noise"][0])).tanh().T[None, :, :4800]
    assert difference(noisy, golden["source_with_noise"][..., :4800]) < 2e-3


@torch.inference_mode()
def test_source_spectrum() -> None:
    golden = mini.golden("hift")
    spectrum = mini.vocoder().generator.source_spectrum(golden["source_with_noise"][:, 0])[..., :64]
    assert difference(spectrum[:, :9], golden["stft_real"]) < 1e-5
    assert difference(spectrum[:, 9:], golden["stft_imag"]) < 1e-5


@torch.inference_mode()
def test_waveform_given_source() -> None:
    golden, generator = mini.golden("hift"), mini.vocoder().generator
    assert difference(generator.conv_pre(golden["mel"])[..., :16], golden["conv_pre_out"]) < 1e-5
    for noise in ("with_noise", "zero_noise"):
        audio = generator(golden["mel"], golden[f"source_{noise}"][:, 0])
        assert difference(audio, golden[f"wav_from_source_{noise}"]) < 1e-5
