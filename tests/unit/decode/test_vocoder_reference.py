"""The vocoder against a float64 computation of the specification, also where the golden arrays are blind: frames
without voice, magnitudes that are clipped, numbers that no official checkpoint has."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from services.common.checkpoint.model_dir import open_model_dir
from services.common.checkpoint.vocoder_config import VocoderConfig
from services.common.checkpoint.weights import read_weights
from services.decode.vocoder.context import layer_bound
from services.decode.vocoder.conv import Conv, by_columns
from services.decode.vocoder.hift import InverseStft
from services.decode.vocoder.stream import Vocoder
from tests.parity.reference import ReferenceVocoder
from tests.unit.decode import decode_support as support

FAMILIES = ["cosyvoice2", "cosyvoice3"]
FRAMES = 24
UNUSUAL: dict[str, Any] = {
    "nb_harmonics": 4,
    "sine_amplitude": 0.23,
    "noise_sigma": 0.02,
    "voiced_threshold": 55.0,
    "lrelu_slope": 0.23,
    "audio_limit": 0.4,
    "sample_rate": 22050,
}
"""With five harmonics the mini's mixing layer loses four of its nine inputs."""


@cache
def checkpoint(family: str) -> tuple[VocoderConfig, dict[str, Tensor]]:
    model = open_model_dir(support.ROOT / "tests" / "data" / f"{family}-mini")
    return model.vocoder, read_weights(model.weights_file("hift"))


def mel() -> Tensor:
    return 2.0 * torch.randn(FRAMES, 80, generator=torch.Generator().manual_seed(8)) - 5.0


def largest_error(config: VocoderConfig, weights: dict[str, Tensor]) -> float:
    vocoder = Vocoder(config, weights, layer_bound(config))
    samples = vocoder.append(vocoder.open(seed=3), mel(), last=True)
    noise = vocoder.noise.read(3, 0, FRAMES * config.hop)
    expected = ReferenceVocoder(config, weights).audio(mel(), noise)
    assert expected.abs().mean() > 0.01
    return float((samples - expected).abs().max())


def half_unvoiced(config: VocoderConfig, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scale the pitch so that every second frame, about, lies below the threshold, and amplify the excitation."""
    f0 = ReferenceVocoder(config, weights).pitch(mel())
    changed = dict(weights)
    factor = config.voiced_threshold / float(f0.median())
    for name in ("weight", "bias"):
        changed[f"f0_predictor.classifier.{name}"] = weights[f"f0_predictor.classifier.{name}"] * factor
    voiced = ReferenceVocoder(config, changed).pitch(mel()) > config.voiced_threshold
    assert FRAMES // 3 <= int(voiced.sum()) <= FRAMES * 2 // 3
    changed["m_source.l_linear.weight"] = 10 * weights["m_source.l_linear.weight"]
    return changed


@pytest.mark.parametrize("family", FAMILIES)
def test_frames_without_voice(family: str) -> None:
    config, weights = checkpoint(family)
    assert largest_error(config, half_unvoiced(config, weights)) < 2e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_clipped_magnitudes(family: str) -> None:
    config, weights = checkpoint(family)
    config = replace(config, audio_limit=1e4)
    louder = dict(weights)
    bins = config.istft_n_fft // 2 + 1
    for name in ("conv_post.weight", "conv_post.bias"):
        scale = torch.ones(2 * bins)
        scale[:bins] = 25.0
        louder[name] = weights[name] * scale.view(-1, *[1] * (weights[name].dim() - 1))
    noise = torch.zeros(FRAMES * config.hop, config.nb_harmonics + 1)
    clipped, free = (ReferenceVocoder(config, louder, limit).audio(mel(), noise) for limit in (100.0, 1e9))
    assert float((clipped - free).abs().max()) > 1, "no magnitude reaches the clip"
    assert largest_error(config, louder) < 2e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_numbers_that_no_official_checkpoint_has(family: str) -> None:
    official, weights = checkpoint(family)
    config = replace(official, **UNUSUAL)
    fewer = {**weights, "m_source.l_linear.weight": weights["m_source.l_linear.weight"][:, : config.nb_harmonics + 1]}
    assert largest_error(config, half_unvoiced(config, fewer)) < 2e-5


def test_the_inverse_stft_is_torchs_own() -> None:
    """Edges included, where fewer windows overlap."""
    n_fft, hop = 16, 4
    spectrum = torch.randn(3, n_fft + 2, 41, generator=torch.Generator().manual_seed(9))
    real, imaginary = spectrum.chunk(2, dim=1)
    expected = torch.istft(torch.complex(real, imaginary), n_fft, hop, window=torch.hann_window(n_fft))
    assert (InverseStft(n_fft, hop)(spectrum) - expected).abs().max() <= 1e-6


@pytest.mark.parametrize(("stride", "dilation", "zeros"), [(1, 3, (6, 6)), (1, 1, (4, 0)), (3, 1, (1, 1))])
@torch.inference_mode()
def test_a_convolution_does_not_depend_on_the_order_of_its_input_in_memory(
    stride: int, dilation: int, zeros: tuple[int, int]
) -> None:
    """On a CPU the channels of a column are adjacent; the result equals PyTorch's convolution of one dimension."""
    generator = torch.Generator().manual_seed(stride)
    conv, x = Conv(6, 4, 5, stride, dilation, zeros=zeros), torch.randn(2, 6, 40, generator=generator)
    expected = F.conv1d(F.pad(x, zeros), conv.weight, conv.bias, stride, 0, dilation)
    made = conv(by_columns(x))
    assert (made - expected).abs().max() <= 1e-5
    assert (conv(x) - expected).abs().max() <= 1e-5
    assert made.mT.is_contiguous(), "the next convolution would copy its input"
