"""The configuration of a checkpoint's flow: its front, its estimator and its solver (spec sections 5 and 9).

Every value comes from the directory's YAML. A value that no code here implements is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from services.common.checkpoint.yaml_nodes import Node
from services.common.families.family import FlowKind

Schedule = Literal["cosine", "linear"]
UPSTREAM_STEPS = 10
"""Euler steps of a directory without `n_timesteps`: upstream's code, not its YAML, has this number."""
UPSTREAM_UP_BLOCKS = 4
"""Blocks after upsampling of a directory without `num_up_blocks`: a constant of upstream's code too."""
POSITION_GROUPS = 16
"""Groups of the DiT's position convolutions (spec section 9)."""


@dataclass(frozen=True)
class SolverConfig:
    """How noise becomes mel (spec section 5.3). A distilled flow may need 4 steps and no guidance."""

    steps: int = UPSTREAM_STEPS
    schedule: Schedule = "cosine"
    cfg_rate: float = 0.7
    """Weight of classifier-free guidance; 0 for none."""

    @property
    def rows(self) -> int:
        """Rows that the estimator computes per stream: with the conditioning and, for guidance, without it."""
        return 2 if self.cfg_rate else 1


@dataclass(frozen=True)
class ConformerConfig:
    """CosyVoice2's front: an upsampling conformer encoder (spec section 5.2)."""

    input_size: int
    width: int
    heads: int
    units: int
    blocks: int
    up_blocks: int


@dataclass(frozen=True)
class ConvolutionConfig:
    """CosyVoice3's front: the pre-lookahead convolutions over embedded tokens alone (spec section 9)."""

    input_size: int
    channels: int


@dataclass(frozen=True)
class UNetConfig:
    """CosyVoice2's estimator: a one-level UNet (spec section 5.4)."""

    channels: int
    heads: int
    head_dim: int
    blocks: int
    mid_stages: int


@dataclass(frozen=True)
class DiTConfig:
    """CosyVoice3's estimator: a diffusion transformer (spec section 9)."""

    width: int
    depth: int
    heads: int
    head_dim: int
    ff_mult: int


@dataclass(frozen=True)
class FlowConfig:
    """Tokens to mel: a front that gives the mean mel, and an estimator that the solver runs at every Euler step."""

    vocab_size: int
    output_size: int
    """Mel bins."""
    speaker_dim: int
    """Numbers of a speaker embedding."""
    lookahead_tokens: int
    mel_frames_per_token: int
    chunk_tokens: int
    solver: SolverConfig
    front: ConformerConfig | ConvolutionConfig
    estimator: UNetConfig | DiTConfig


def read_flow(raw: Mapping[str, Any], kind: FlowKind) -> FlowConfig:
    """Read the flow's part of a model directory's YAML. Raises NodeError."""
    root = Node(raw)
    flow = root.child("flow")
    ratio, chunk = root.integer("token_mel_ratio"), root.integer("chunk_size")
    mel, speaker = flow.integer("output_size"), root.integer("spk_embed_dim")
    flow.only("token_mel_ratio", ratio, default=ratio)
    flow.only("spk_embed_dim", speaker, default=speaker)
    rate = root.integer("token_frame_rate")
    flow.only("input_frame_rate", rate, default=rate)
    flow.only("output_type", "mel", default="mel")
    flow.unused("only_mask_loss")
    lookahead = flow.integer("pre_lookahead_len")
    decoder = flow.child("decoder")
    # A directory may write the estimator's and the solver's values into the decoder's node directly.
    estimator = decoder.child("estimator") if "estimator" in decoder else decoder
    solver = decoder.child("cfm_params").child("content") if "cfm_params" in decoder else decoder
    transformer = kind == "convolution-dit"
    config = FlowConfig(
        vocab_size=flow.integer("vocab_size"),
        output_size=mel,
        speaker_dim=speaker,
        lookahead_tokens=lookahead,
        mel_frames_per_token=ratio,
        chunk_tokens=chunk,
        solver=_solver(solver),
        front=_convolution(flow, lookahead, mel) if transformer else _conformer(flow, chunk),
        estimator=_dit(estimator, mel) if transformer else _unet(estimator, mel),
    )
    frames = ratio * chunk
    estimator.only("static_chunk_size", frames, default=frames)
    # Upstream's mask ignores the number of left chunks: all are visible (spec section 6.3).
    estimator.unused("dropout", "num_decoding_left_chunks")
    decoder.only("spk_emb_dim", mel, default=mel)
    decoder.unused("n_spks", "in_channels")
    for node in (flow, decoder, estimator, solver):
        node.close()
    return config


def _solver(node: Node) -> SolverConfig:
    node.only("solver", "euler", default="euler")
    node.only("sigma_min", 1e-6, default=1e-6)
    node.unused("training_cfg_rate", "reg_loss_type")
    return SolverConfig(
        steps=node.integer("n_timesteps", UPSTREAM_STEPS),
        schedule=node.only("t_scheduler", "cosine", "linear"),
        cfg_rate=node.number("inference_cfg_rate"),
    )


def _conformer(flow: Node, chunk: int) -> ConformerConfig:
    node, size = flow.child("encoder"), flow.integer("input_size")
    for name, value in (
        ("input_size", size),
        ("static_chunk_size", chunk),
        ("normalize_before", True),
        ("input_layer", "linear"),
        ("pos_enc_layer_type", "rel_pos_espnet"),
        ("selfattention_layer_type", "rel_selfattn"),
        ("activation_type", "swish"),
        ("use_cnn_module", False),
        ("macaron_style", False),
        ("key_bias", True),
    ):
        node.only(name, value, default=value)
    node.unused("dropout_rate", "positional_dropout_rate", "attention_dropout_rate")
    config = ConformerConfig(
        input_size=size,
        width=node.integer("output_size"),
        heads=node.integer("attention_heads"),
        units=node.integer("linear_units"),
        blocks=node.integer("num_blocks"),
        up_blocks=node.integer("num_up_blocks", UPSTREAM_UP_BLOCKS),
    )
    node.close()
    if config.width % config.heads:
        raise node.error("attention_heads", f"is {config.heads}, which does not divide output_size {config.width}")
    return config


def _convolution(flow: Node, lookahead: int, mel: int) -> ConvolutionConfig:
    node = flow.child("pre_lookahead_layer")
    size = flow.only("input_size", mel)  # its output is the mean mel
    node.only("in_channels", size)
    node.only("pre_lookahead_len", lookahead)
    config = ConvolutionConfig(size, node.integer("channels"))
    node.close()
    return config


def _unet(node: Node, mel: int) -> UNetConfig:
    channels = node.integers("channels")
    if len(channels) != 1:
        raise node.error("channels", f"has {len(channels)} levels, which is not implemented; only 1 is")
    node.only("act_fn", "gelu", default="gelu")
    node.only("in_channels", 4 * mel)
    node.only("out_channels", mel)
    return UNetConfig(
        channels=channels[0],
        heads=node.integer("num_heads"),
        head_dim=node.integer("attention_head_dim"),
        blocks=node.integer("n_blocks"),
        mid_stages=node.integer("num_mid_blocks"),
    )


def _dit(node: Node, mel: int) -> DiTConfig:
    for name in ("mel_dim", "mu_dim", "spk_dim", "out_channels"):
        node.only(name, mel)
    node.only("long_skip_connection", False, default=False)
    node.integer("static_chunk_size")
    config = DiTConfig(
        width=node.integer("dim"),
        depth=node.integer("depth"),
        heads=node.integer("heads"),
        head_dim=node.integer("dim_head"),
        ff_mult=node.integer("ff_mult"),
    )
    if config.width % POSITION_GROUPS:
        raise node.error("dim", f"is {config.width}, expected a multiple of {POSITION_GROUPS}")
    if config.head_dim % 2:
        raise node.error("dim_head", f"is {config.head_dim}, expected an even number")
    return config
