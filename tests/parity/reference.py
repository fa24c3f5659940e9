"""The vocoder in float64, written from the specification alone (sections 7 and 9): slow, plain, shares no code.

The goldens' end-to-end tolerances admit upstream's own float32 phase noise, which hides small mistakes. Against this
computation they show: it has no phase noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from services.common.checkpoint.vocoder_config import VocoderConfig


@dataclass(frozen=True)
class ReferenceVocoder:
    """The vocoder of a configuration and of weights whose weight norm is folded."""

    config: VocoderConfig
    weights: Mapping[str, Tensor]
    largest_magnitude: float = 100.0

    def audio(self, mel: Tensor, noise: Tensor) -> Tensor:
        """mel [M, bins] of a whole utterance, noise [M * hop, harmonics] -> samples [M * hop], float64."""
        return self.waveform(mel, self.source(self.pitch(mel), noise))

    def pitch(self, mel: Tensor) -> Tensor:
        """Hz of each frame, [M]."""
        x = mel.double().T[None]
        for layer in range(5):
            left, right = ((0, 3) if layer == 0 else (2, 0)) if self.config.causal else (1, 1)
            x = F.elu(self._conv(F.pad(x, (left, right)), f"f0_predictor.condnet.{2 * layer}"))
        weight, bias = self._of("f0_predictor.classifier")
        return F.linear(x[0].T, weight, bias)[:, 0].abs()

    def source(self, f0: Tensor, noise: Tensor) -> Tensor:
        """The excitation [M * hop] of f0 [M]."""
        config = self.config
        hop, frames = config.hop, f0.shape[0]
        order = torch.arange(1, config.nb_harmonics + 2).double()
        radians = 2 * math.pi * hop * torch.cumsum(f0[:, None] * order / config.sample_rate % 1, dim=0)
        if config.causal:
            phase = radians.repeat_interleave(hop, dim=0)
        else:
            place = ((torch.arange(frames * hop).double() + 0.5) / hop - 0.5).clamp(0, frames - 1)
            before = place.floor().long()
            share = (place - before)[:, None]
            phase = (1 - share) * radians[before] + share * radians[(before + 1).clamp(max=frames - 1)]
        voiced = (f0 > config.voiced_threshold).repeat_interleave(hop)[:, None]
        amplitude = torch.where(voiced, config.noise_sigma, config.sine_amplitude / 3).double()
        sines = config.sine_amplitude * torch.sin(phase) * voiced + amplitude * noise.double()
        return torch.tanh(F.linear(sines, *self._of("m_source.l_linear"))[:, 0])

    def waveform(self, mel: Tensor, source: Tensor) -> Tensor:
        """Samples [M * hop] of mel and excitation."""
        config = self.config
        size, hop, causal = config.istft_n_fft, config.istft_hop, config.causal
        window = torch.hann_window(size).double()
        spectrum = torch.stft(source.double()[None], size, hop, window=window, pad_mode="reflect", return_complex=True)
        columns = torch.cat((spectrum.real, spectrum.imag), dim=1)
        right = config.conv_pre_look_right
        x = self._conv(F.pad(mel.double().T[None], (0 if causal else right, right)), "conv_pre")
        rates, kinds = config.upsample_rates, len(config.resblock_kernels)
        for stage, (rate, kernel) in enumerate(zip(rates, config.upsample_kernels, strict=True)):
            x = F.leaky_relu(x, config.lrelu_slope)
            weight, bias = self._of(f"ups.{stage}")
            if causal:
                x = F.conv1d(F.pad(x.repeat_interleave(rate, dim=-1), (kernel - 1, 0)), weight, bias)
            else:
                x = F.conv_transpose1d(x, weight, bias, stride=rate, padding=(kernel - rate) // 2)
            if stage == len(rates) - 1:
                x = torch.cat((x[..., 1:2], x), dim=-1)
            stride = math.prod(rates[stage + 1 :])
            pad = (0, 0) if stride == 1 else (stride - 1, 0) if causal else (stride // 2, stride // 2)
            down = self._conv(F.pad(columns, pad), f"source_downs.{stage}", stride=stride)
            x = x + self._block(down, f"source_resblocks.{stage}", config.source_dilations[stage])
            blocks = [
                self._block(x, f"resblocks.{kinds * stage + kind}", config.resblock_dilations[kind])
                for kind in range(kinds)
            ]
            x = torch.stack(blocks).mean(dim=0)
        x = self._conv(F.pad(F.leaky_relu(x, 0.01), (6, 0) if causal else (3, 3)), "conv_post")
        magnitude, angle = x.chunk(2, dim=1)
        polar = torch.polar(magnitude.exp().clamp(max=self.largest_magnitude), angle.sin())
        samples = torch.istft(polar, size, hop, window=window)[0]
        return samples.clamp(-config.audio_limit, config.audio_limit)

    def _block(self, x: Tensor, name: str, dilations: tuple[int, ...]) -> Tensor:
        for index, dilation in enumerate(dilations):
            inner = self._same(self._snake(x, f"{name}.activations1.{index}"), f"{name}.convs1.{index}", dilation)
            x = x + self._same(self._snake(inner, f"{name}.activations2.{index}"), f"{name}.convs2.{index}", 1)
        return x

    def _snake(self, x: Tensor, name: str) -> Tensor:
        alpha = self.weights[f"{name}.alpha"].double()[:, None]
        return x + torch.sin(alpha * x) ** 2 / (alpha + 1e-9)

    def _same(self, x: Tensor, name: str, dilation: int) -> Tensor:
        reach = (self.weights[f"{name}.weight"].shape[2] - 1) * dilation
        pad = (reach, 0) if self.config.causal else (reach // 2, reach // 2)
        return self._conv(F.pad(x, pad), name, dilation=dilation)

    def _conv(self, x: Tensor, name: str, stride: int = 1, dilation: int = 1) -> Tensor:
        weight, bias = self._of(name)
        return F.conv1d(x, weight, bias, stride=stride, dilation=dilation)

    def _of(self, name: str) -> tuple[Tensor, Tensor]:
        return self.weights[f"{name}.weight"].double(), self.weights[f"{name}.bias"].double()
