"""The HiFT generator: mel and excitation to samples (spec section 7.4). Stateless; `stream` cuts it into windows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.common.checkpoint.model_dir import VocoderConfig

_MAX_MAGNITUDE = 100.0


class Snake(nn.Module):
    """x + sin²(αx) / α, α per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        alpha = self.alpha[:, None]
        wave = (x * alpha).sin_()
        return torch.addcmul(x, wave.square_(), (alpha + 1e-9).reciprocal())


class ResBlock(nn.Module):
    """Dilated and plain convolutions around snakes, with shortcuts."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=d, padding=d * (kernel - 1) // 2) for d in dilations
        )
        self.convs2 = nn.ModuleList(nn.Conv1d(channels, channels, kernel, padding=(kernel - 1) // 2) for _ in dilations)
        self.activations1 = nn.ModuleList(Snake(channels) for _ in dilations)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        layers = zip(self.activations1, self.convs1, self.activations2, self.convs2, strict=True)
        for snake1, conv1, snake2, conv2 in layers:
            x = x + conv2(snake2(conv1(snake1(x))))
        return x


class Generator(nn.Module):
    """Upsampling stages that merge the excitation's spectrum, then an inverse STFT."""

    window: Tensor

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        base, bins = config.base_channels, config.istft_n_fft + 2
        self.conv_pre = nn.Conv1d(config.in_channels, base, 7, padding=3)
        self.ups, self.source_downs, self.source_resblocks = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.resblocks = nn.ModuleList()
        stages = list(zip(config.upsample_rates, config.upsample_kernels, strict=True))
        for stage, (rate, kernel) in enumerate(stages):
            width = base // 2 ** (stage + 1)
            padding = (kernel - rate) // 2
            self.ups.append(nn.ConvTranspose1d(2 * width, width, kernel, rate, padding=padding))
            # The spectrum has one column per istft_hop samples; each stage reads it at its own rate.
            stride = 1
            for later, _ in stages[stage + 1 :]:
                stride *= later
            down = (
                nn.Conv1d(bins, width, 2 * stride, stride, padding=stride // 2)
                if stride > 1
                else nn.Conv1d(bins, width, 1)
            )
            self.source_downs.append(down)
            self.source_resblocks.append(ResBlock(width, config.source_kernels[stage], config.source_dilations[stage]))
            for size, dilations in zip(config.resblock_kernels, config.resblock_dilations, strict=True):
                self.resblocks.append(ResBlock(width, size, dilations))
        self.conv_post = nn.Conv1d(base // 2 ** len(stages), bins, 7, padding=3)
        self.register_buffer("window", torch.hann_window(config.istft_n_fft), persistent=False)

    def forward(self, mel: Tensor, source: Tensor) -> Tensor:
        """mel [B, mel, M], source [B, M * hop] -> samples [B, M * hop], clipped to the audio limit."""
        config = self.config
        spectrum = self.source_spectrum(source)
        x = self.conv_pre(mel)
        kinds = len(config.resblock_kernels)
        last = len(self.ups) - 1
        for stage, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, config.lrelu_slope))
            if stage == last:
                x = F.pad(x, (1, 0), mode="reflect")
            x = x + self.source_resblocks[stage](self.source_downs[stage](spectrum))
            blocks = self.resblocks[stage * kinds : (stage + 1) * kinds]
            total = blocks[0](x)
            for block in blocks[1:]:
                total = total + block(x)
            x = total / kinds
        x = self.conv_post(F.leaky_relu(x, 0.01))
        half = config.istft_n_fft // 2 + 1
        magnitude = x[:, :half].exp().clamp(max=_MAX_MAGNITUDE)
        angle = x[:, half:].sin()
        audio = torch.istft(
            torch.complex(magnitude * angle.cos(), magnitude * angle.sin()),
            config.istft_n_fft,
            config.istft_hop,
            window=self.window,
        )
        return audio.clamp(-config.audio_limit, config.audio_limit)

    def source_spectrum(self, source: Tensor) -> Tensor:
        """[B, L] -> real parts over imaginary parts, [B, n_fft + 2, L / hop + 1]."""
        config = self.config
        spectrum = torch.stft(
            source, config.istft_n_fft, config.istft_hop, window=self.window, return_complex=True, pad_mode="reflect"
        )
        return torch.cat((spectrum.real, spectrum.imag), dim=1)
