"""CosyVoice3's estimator: a diffusion transformer over mel frames (spec section 9).

The blocks are those of Peebles & Xie, "Scalable Diffusion Models with Transformers" (adaLN-Zero), in the form of
F5-TTS. Inputs and outputs are [rows, frames, channels]. The two position convolutions are causal and attention is
limited by the pass's chunk mask, so a pass may hold a whole utterance or only the frames after a cached state. Keys are
cached after rotation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.common.checkpoint.flow_config import POSITION_GROUPS, DiTConfig
from services.decode.flow.estimator import EstimatorNetwork
from services.decode.flow.forward_pass import ForwardContext
from services.decode.flow.kv_cache import KvLayout

_SINUSOIDS = 256
_KERNEL = 31
EPS = 1e-6
BLOCK_TERMS, FINAL_TERMS = 6, 2
"""Time terms of a block (shift, scale and gate of attention, then of the feed-forward) and of the final norm."""


class TimeEmbedding(nn.Module):
    """Flow time in 0 … 1 to the vector that modulates every block: [T] -> [T, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.time_mlp = nn.Sequential(nn.Linear(_SINUSOIDS, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        half = _SINUSOIDS // 2
        rate = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * -(math.log(10000.0) / (half - 1)))
        angle = 1000.0 * t[:, None] * rate
        out: Tensor = self.time_mlp(torch.cat((angle.sin(), angle.cos()), dim=-1))
        return out


class AdaptiveNorm(nn.Module):
    """LayerNorm without parameters of its own, then a scale and shift that depend on flow time (adaLN)."""

    def __init__(self, width: int, terms: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, terms * width)
        self.norm = nn.LayerNorm(width, eps=EPS, elementwise_affine=False)
        self._terms = terms

    def terms(self, time: Tensor) -> list[Tensor]:
        """The shifts, scales and gates of one block: [T, width] -> tensors [T, 1, width]."""
        return [term[:, None] for term in self.linear(F.silu(time)).chunk(self._terms, dim=-1)]

    def forward(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        out: Tensor = self.norm(x) * (1 + scale) + shift
        return out


class PositionConvolution(nn.Module):
    """Two grouped convolutions over this frame and the 30 before it, each with Mish."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv1d(width, width, _KERNEL, groups=POSITION_GROUPS), nn.Mish())
        self.conv2 = nn.Sequential(nn.Conv1d(width, width, _KERNEL, groups=POSITION_GROUPS), nn.Mish())

    def forward(self, x: Tensor, frames: ForwardContext) -> Tensor:
        for index, convolution in enumerate((self.conv1, self.conv2)):
            x = convolution(frames.left(index, x, _KERNEL - 1).transpose(1, 2)).transpose(1, 2)
        return x


class InputEmbedding(nn.Module):
    """(noisy mel | cond | mu | speaker) to the width of the transformer, with positions by convolution."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_channels, width)
        self.conv_pos_embed = PositionConvolution(width)

    def forward(self, x: Tensor, frames: ForwardContext) -> Tensor:
        x = self.proj(x)
        out: Tensor = x + self.conv_pos_embed(x, frames)
        return out


class RotaryEmbedding(nn.Module):
    """Cosines and sines of the rotary embedding, always float32: positions [R, N] -> two tensors [R, N, head_dim / 2].

    Frequency k is 10000^(-2k/d); the checkpoint stores them.
    """

    inv_freq: Tensor

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 10000.0 ** -(torch.arange(0, head_dim, 2) / head_dim))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RotaryEmbedding:
        """Move, but never convert: a frequency in bfloat16 is wrong by many radians at a late frame."""
        kept = self.inv_freq
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.inv_freq = kept.to(self.inv_freq.device)
        return self

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        angle = positions[..., None] * self.inv_freq
        return angle.cos(), angle.sin()


def rotate_first_head(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the pairs (2k, 2k + 1) of head 0, and no other head, by position: [R, N, heads, d].

    Upstream applies its rotary embedding before it splits the heads, so that the first d of all channels turn.
    """
    cos, sin = (wave[:, :, None] for wave in rotary)
    first = x[:, :, :1].float()
    even, odd = first[..., 0::2], first[..., 1::2]
    turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
    return torch.cat((turned.to(x.dtype), x[:, :, 1:]), dim=2)


class Attention(nn.Module):
    """Queries, keys and values with bias. `DiTBlock` applies `to_out`."""

    def __init__(self, config: DiTConfig, index: int) -> None:
        super().__init__()
        width, inner = config.width, config.heads * config.head_dim
        self.heads, self.index = config.heads, index
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, inner) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(inner, width)])

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], frames: ForwardContext) -> Tensor:
        """Attention output, [R, N, heads * head_dim]."""
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)) for f in (self.to_q, self.to_k, self.to_v))
        return frames.attend(self.index, rotate_first_head(q, rotary), rotate_first_head(k, rotary), v)


class FeedForward(nn.Module):
    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        activated = nn.Sequential(nn.Linear(width, units), nn.GELU(approximate="tanh"))
        self.ff = nn.ModuleDict({"0": activated, "2": nn.Linear(units, width)})

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.ff["2"](self.ff["0"](x))
        return out


class DiTBlock(nn.Module):
    """Attention and feed-forward, both modulated and gated by flow time (adaLN-Zero)."""

    def __init__(self, config: DiTConfig, index: int) -> None:
        super().__init__()
        self.attn_norm = AdaptiveNorm(config.width, BLOCK_TERMS)
        self.attn = Attention(config, index)
        self.ff = FeedForward(config.width, config.ff_mult * config.width)
        self.before_attention = self.attn_norm.forward
        self.after_attention = self._after_attention

    def forward(self, x: Tensor, terms: list[Tensor], rotary: tuple[Tensor, Tensor], frames: ForwardContext) -> Tensor:
        """`terms` are the block's six time terms [1 or R, 1, width]."""
        shift, scale, *rest = terms
        return self.after_attention(x, self.attn(self.before_attention(x, shift, scale), rotary, frames), *rest)

    def _after_attention(
        self, x: Tensor, attended: Tensor, attention_gate: Tensor, shift: Tensor, scale: Tensor, gate: Tensor
    ) -> Tensor:
        x = x + attention_gate * self.attn.to_out[0](attended)
        out: Tensor = x + gate * self.ff(self.attn_norm(x, shift, scale))
        return out


class DiT(EstimatorNetwork):
    """The estimator."""

    conditions = ("cond", "mu", "speaker")

    def __init__(self, config: DiTConfig, mel: int) -> None:
        super().__init__()
        self._config = config
        self.time_embed = TimeEmbedding(config.width)
        self.input_embed = InputEmbedding(4 * mel, config.width)
        self.rotary_embed = RotaryEmbedding(config.head_dim)
        self.transformer_blocks = nn.ModuleList(DiTBlock(config, index) for index in range(config.depth))
        self.norm_out = AdaptiveNorm(config.width, FINAL_TERMS)
        self.proj_out = nn.Linear(config.width, mel)

    @property
    def dtype(self) -> torch.dtype:
        return self.proj_out.weight.dtype

    @property
    def mel(self) -> int:
        return self.proj_out.out_features

    def layout(self, positions: int, steps: int, rows: int) -> KvLayout:
        config = self._config
        tails = 2 * (_KERNEL - 1) * config.width  # of the two position convolutions
        return KvLayout(config.depth, positions, config.heads, config.head_dim, steps, rows, tails)

    def compile_parts(self) -> None:
        for module in self.transformer_blocks:
            block = cast(DiTBlock, module)
            block.before_attention = torch.compile(block.attn_norm.forward, dynamic=True)
            block.after_attention = torch.compile(block._after_attention, dynamic=True)

    def time_terms(self, t: Tensor) -> list[Tensor]:
        """Six tensors [T, 1, width] per block, then the scale and shift of the final norm, in this order."""
        time = self.time_embed(t)
        blocks = [cast(DiTBlock, block).attn_norm.terms(time) for block in self.transformer_blocks]
        return [term for terms in (*blocks, self.norm_out.terms(time)) for term in terms]

    def forward(self, x: Tensor, time_terms: list[Tensor], frames: ForwardContext) -> Tensor:
        """x [R, N, 4 * mel] = (noisy mel | cond | mu | speaker) -> velocity [R, N, mel]."""
        rotary = self.rotary_embed(frames.positions(x))
        x = self.input_embed(x, frames)
        for index, block in enumerate(self.transformer_blocks):
            x = block(x, time_terms[index * BLOCK_TERMS : (index + 1) * BLOCK_TERMS], rotary, frames)
        scale, shift = time_terms[-FINAL_TERMS:]
        out: Tensor = self.proj_out(self.norm_out(x, shift, scale))
        return out
