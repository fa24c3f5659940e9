"""The HiFT generator: mel and excitation to samples (spec section 7.4). Stateless; `stream` cuts it into windows.

CosyVoice3's generator (spec section 9) is the same network with its layers' context on the left: `causal` of its
configuration selects the paddings and the way of upsampling, the rest is shared.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.common.checkpoint.vocoder_config import VocoderConfig
from services.decode.vocoder.activation import ConvolveJoin, Snake
from services.decode.vocoder.conv import Conv, RepeatUp, by_columns, zeros_around

_MAX_MAGNITUDE = 100.0
_LEAST_WEIGHT = 1e-3
"""Less than any sample's sum of windows; only samples that do not exist have less."""


class ResBlock(nn.Module):
    """Dilated and plain convolutions around snakes, with shortcuts."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...], *, causal: bool) -> None:
        super().__init__()
        reach = kernel - 1
        self.convs1 = nn.ModuleList(
            Conv(channels, channels, kernel, dilation=d, zeros=zeros_around(reach * d, causal=causal))
            for d in dilations
        )
        self.convs2 = nn.ModuleList(
            Conv(channels, channels, kernel, zeros=zeros_around(reach, causal=causal)) for _ in dilations
        )
        self.activations1 = nn.ModuleList(Snake(channels) for _ in dilations)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in dilations)

    def forward(self, x: Tensor, known: Tensor | None = None, convolve: ConvolveJoin | None = None) -> Tensor:
        """[B, C, n] -> [B, C, n]; both are zero where `known` [B, 1, n] is zero.

        `convolve` computes each convolution and what follows it, in a window that has `known`.
        """
        if known is not None and convolve is not None:
            return self._joined(x, known, convolve)
        layers = zip(self.activations1, self.convs1, self.activations2, self.convs2, strict=True)
        for snake1, conv1, snake2, conv2 in layers:
            inner = conv1(snake1(x))
            if known is None:
                x = conv2(snake2(inner)).add_(x)
            else:  # activations of zero are zero
                x = torch.addcmul(x, conv2(snake2(inner.mul_(known))), known)
        return x

    def _joined(self, x: Tensor, known: Tensor, convolve: ConvolveJoin) -> Tensor:
        convs1, convs2 = (cast("list[Conv]", [*convs]) for convs in (self.convs1, self.convs2))
        first, inside = (cast("list[Snake]", [*snakes]) for snakes in (self.activations1, self.activations2))
        layers = zip(convs1, inside, convs2, [*first[1:], None], strict=True)
        _, wave = convolve(x, None, known, None, first[0])
        for conv1, snake2, conv2, snake1 in layers:
            _, inner = convolve(wave, conv1, known, None, snake2)
            x, wave = convolve(inner, conv2, known, x, snake1)
        return x


def _upsampling(inputs: int, outputs: int, kernel: int, rate: int, *, causal: bool) -> nn.Module:
    if causal:
        return RepeatUp(inputs, outputs, kernel, rate)
    return nn.ConvTranspose1d(inputs, outputs, kernel, rate, padding=(kernel - rate) // 2)


def _downsampling(inputs: int, outputs: int, stride: int, *, causal: bool) -> nn.Module:
    """The spectrum at a stage's rate: one of `stride` columns, from twice as many."""
    if stride == 1:
        return Conv(inputs, outputs, 1, zeros=(0, 0))
    zeros = (stride - 1, 0) if causal else (stride // 2, stride // 2)
    return Conv(inputs, outputs, 2 * stride, stride, zeros=zeros)


class InverseStft(nn.Module):
    """`torch.istft` with a Hann window as a transposed convolution, which can be recorded: it reads nothing back."""

    basis: Tensor
    window: Tensor

    def __init__(self, n_fft: int, hop: int) -> None:
        super().__init__()
        self._n_fft, self._hop = n_fft, hop
        window = torch.hann_window(n_fft, dtype=torch.float64)
        one = torch.eye(n_fft // 2 + 1, dtype=torch.float64)
        waves = torch.cat((torch.fft.irfft(one, n_fft), torch.fft.irfft(1j * one, n_fft)))
        self.register_buffer("basis", (waves * window)[:, None].float(), persistent=False)
        self.register_buffer("window", window.square()[None, None].float(), persistent=False)

    def forward(self, spectrum: Tensor, known: Tensor | None = None) -> Tensor:
        """Real parts over imaginary parts [B, n_fft + 2, T] -> [B, (T - 1) * hop].

        The spectrum is zero where `known` [B, 1, T] is zero: those columns do not exist.
        """
        half = self._n_fft // 2
        added = F.conv_transpose1d(spectrum, self.basis, stride=self._hop)[:, 0, half:-half]
        columns = torch.ones_like(spectrum[:1, :1]) if known is None else known
        weights = F.conv_transpose1d(columns, self.window, stride=self._hop)[:, 0, half:-half]
        return added / (weights if known is None else weights.clamp_min(_LEAST_WEIGHT))


def _fourier(n_fft: int) -> Tensor:
    """The windowed waves whose products with the samples are a column of the spectrum: [n_fft + 2, 1, n_fft]."""
    waves = torch.fft.rfft(torch.diag(torch.hann_window(n_fft, dtype=torch.float64)))
    return torch.cat((waves.real, waves.imag), dim=1).T[:, None].float().contiguous()


class Generator(nn.Module):
    """Upsampling stages that merge the excitation's spectrum, then an inverse STFT."""

    waves: Tensor
    window: Tensor

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        self.convolve: ConvolveJoin | None = None
        """Another way to compute the residual blocks' convolutions, for mels of which `frames` are known."""
        base, bins, causal = config.base_channels, config.istft_n_fft + 2, config.causal
        ahead = config.conv_pre_look_right
        behind = 0 if causal else ahead
        self.conv_pre = Conv(config.in_channels, base, behind + 1 + ahead, zeros=(behind, ahead))
        self.ups, self.source_downs, self.source_resblocks = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.resblocks = nn.ModuleList()
        stages = list(zip(config.upsample_rates, config.upsample_kernels, strict=True))
        for stage, (rate, kernel) in enumerate(stages):
            width = base // 2 ** (stage + 1)
            self.ups.append(_upsampling(2 * width, width, kernel, rate, causal=causal))
            # The spectrum has one column per istft_hop samples; each stage reads it at its own rate.
            stride = math.prod(later for later, _ in stages[stage + 1 :])
            self.source_downs.append(_downsampling(bins, width, stride, causal=causal))
            source = (config.source_kernels[stage], config.source_dilations[stage])
            self.source_resblocks.append(ResBlock(width, *source, causal=causal))
            for size, dilations in zip(config.resblock_kernels, config.resblock_dilations, strict=True):
                self.resblocks.append(ResBlock(width, size, dilations, causal=causal))
        self.conv_post = Conv(base // 2 ** len(stages), bins, 7, zeros=zeros_around(6, causal=causal))
        self.inverse = InverseStft(config.istft_n_fft, config.istft_hop)
        self.register_buffer("window", torch.hann_window(config.istft_n_fft), persistent=False)
        self.register_buffer("waves", _fourier(config.istft_n_fft), persistent=False)

    def forward(self, mel: Tensor, source: Tensor, frames: Tensor | None = None) -> Tensor:
        """mel [B, mel, M], source [B, M * hop] -> samples [B, M * hop], clipped to the audio limit.

        With `frames`, int64 [B, 1], each mel ends after that many frames; zeros follow it. Its samples are those of the
        mel alone: what a layer computes after the end is set to zero again, as if the next layer padded it.
        """
        config = self.config
        columns = config.hop // config.istft_hop
        known = None if frames is None else known_columns(mel.shape[-1] * columns + 1, frames * columns + 1)
        spectrum = self.source_spectrum(source, None if frames is None else frames * config.hop)
        spectrum = by_columns(spectrum if known is None else spectrum.mul_(known))
        x = self.conv_pre(mel)
        if frames is not None:
            x = x.mul_(known_columns(mel.shape[-1], frames))
        kinds = len(config.resblock_kernels)
        last = len(self.ups) - 1
        rate = 1
        for stage, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, config.lrelu_slope))
            rate *= config.upsample_rates[stage]
            if stage == last:
                x = F.pad(x, (1, 0), mode="reflect")
            more = int(stage == last)
            here = None if frames is None else known_columns(x.shape[-1], frames * rate + more)
            down = self.source_downs[stage](spectrum)
            if here is None:
                x = by_columns(x) + self.source_resblocks[stage](down)
            else:
                source_part = self.source_resblocks[stage](down.mul_(here), here, self.convolve)
                x = torch.addcmul(source_part, by_columns(x), here)
            blocks = self.resblocks[stage * kinds : (stage + 1) * kinds]
            total = blocks[0](x, here, self.convolve)
            for block in blocks[1:]:
                total = total + block(x, here, self.convolve)
            x = total / kinds
        x = self.conv_post(F.leaky_relu(x, 0.01))
        half = config.istft_n_fft // 2 + 1
        magnitude = x[:, :half].exp().clamp(max=_MAX_MAGNITUDE)
        if known is not None:
            magnitude = magnitude.mul_(known)
        angle = x[:, half:].sin()
        audio: Tensor = self.inverse(torch.cat((magnitude * angle.cos(), magnitude * angle.sin()), dim=1), known)
        return audio.clamp(-config.audio_limit, config.audio_limit)

    def source_spectrum(self, source: Tensor, samples: Tensor | None = None) -> Tensor:
        """[B, L] -> real parts over imaginary parts, [B, n_fft + 2, L / hop + 1].

        With `samples`, int64 [B, 1], each source ends after that many samples, where its mirror image begins.
        """
        config = self.config
        if samples is None:
            spectrum = torch.stft(
                source,
                config.istft_n_fft,
                config.istft_hop,
                window=self.window,
                return_complex=True,
                pad_mode="reflect",
            )
            return torch.cat((spectrum.real, spectrum.imag), dim=1)
        half, end = config.istft_n_fft // 2, source.shape[1] + config.istft_n_fft // 2
        place = torch.arange(-half, end, device=source.device).abs_()
        mirrored = torch.minimum(place, 2 * (samples - 1) - place).clamp_(min=0)
        return F.conv1d(source.gather(1, mirrored)[:, None], self.waves, stride=config.istft_hop)


def known_columns(count: int, ends: Tensor) -> Tensor:
    """float32 [B, 1, count]: 1 before each row's end, int64 [B, 1], 0 from there on."""
    return (torch.arange(count, device=ends.device) < ends).float()[:, None]
