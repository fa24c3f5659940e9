"""The configuration of a checkpoint's vocoder (spec sections 7 and 9), all of it from the directory's YAML."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.common.checkpoint.yaml_nodes import Node
from services.common.families.family import VocoderKind

HIFT_LOOK_RIGHT = 3
"""Frames that HiFT's first layer sees on either side: a constant of upstream's code."""


@dataclass(frozen=True)
class VocoderConfig:
    """Mel to samples: HiFT, or its causal variant."""

    in_channels: int
    base_channels: int
    nb_harmonics: int
    sample_rate: int
    sine_amplitude: float
    noise_sigma: float
    voiced_threshold: float
    upsample_rates: tuple[int, ...]
    upsample_kernels: tuple[int, ...]
    istft_n_fft: int
    istft_hop: int
    resblock_kernels: tuple[int, ...]
    resblock_dilations: tuple[tuple[int, ...], ...]
    source_kernels: tuple[int, ...]
    source_dilations: tuple[tuple[int, ...], ...]
    lrelu_slope: float
    audio_limit: float
    f0_channels: int
    causal: bool
    """Layers see the past only, except the first ones of pitch and generator."""
    conv_pre_look_right: int
    """Frames that the generator's first layer sees to the right."""

    @property
    def hop(self) -> int:
        """Samples per mel frame (480 at 24 kHz)."""
        return self.istft_hop * math.prod(self.upsample_rates)


def read_vocoder(raw: Mapping[str, Any], kind: VocoderKind, mel_hop: int) -> VocoderConfig:
    """Read the vocoder's part of a model directory's YAML; `mel_hop` is the mel's (samples). Raises NodeError."""
    root = Node(raw)
    node = root.child("hift")
    istft, pitch = node.child("istft_params"), node.child("f0_predictor")
    bins = root.child("flow").integer("output_size")
    for part in (node, pitch):
        part.only("in_channels", bins, default=bins)
    pitch.only("num_class", 1, default=1)
    config = VocoderConfig(
        in_channels=bins,
        base_channels=node.integer("base_channels"),
        nb_harmonics=node.integer("nb_harmonics", least=0),
        sample_rate=node.only("sampling_rate", root.integer("sample_rate")),
        sine_amplitude=node.number("nsf_alpha"),
        noise_sigma=node.number("nsf_sigma"),
        voiced_threshold=node.number("nsf_voiced_threshold"),
        upsample_rates=tuple(node.integers("upsample_rates")),
        upsample_kernels=tuple(node.integers("upsample_kernel_sizes")),
        istft_n_fft=istft.integer("n_fft"),
        istft_hop=istft.integer("hop_len"),
        resblock_kernels=tuple(node.integers("resblock_kernel_sizes")),
        resblock_dilations=node.rows("resblock_dilation_sizes"),
        source_kernels=tuple(node.integers("source_resblock_kernel_sizes")),
        source_dilations=node.rows("source_resblock_dilation_sizes"),
        lrelu_slope=node.number("lrelu_slope"),
        audio_limit=node.number("audio_limit"),
        f0_channels=pitch.integer("cond_channels"),
        causal=kind == "causal-hift",
        conv_pre_look_right=node.integer("conv_pre_look_right") if kind == "causal-hift" else HIFT_LOOK_RIGHT,
    )
    for part in (node, istft, pitch):
        part.close()
    stages = len(config.upsample_rates)
    for name, count, wanted in (
        ("upsample_kernel_sizes", len(config.upsample_kernels), stages),
        ("source_resblock_kernel_sizes", len(config.source_kernels), stages),
        ("source_resblock_dilation_sizes", len(config.source_dilations), stages),
        ("resblock_dilation_sizes", len(config.resblock_dilations), len(config.resblock_kernels)),
    ):
        if count != wanted:
            raise node.error(name, f"has {count} entries, expected {wanted}")
    if config.base_channels % 2**stages:
        raise node.error("base_channels", f"is {config.base_channels}, expected a multiple of {2**stages}")
    if config.hop != mel_hop:
        raise node.error("upsample_rates", f"give {config.hop} samples per frame, but the mel has {mel_hop}")
    return config
