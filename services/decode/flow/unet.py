"""CosyVoice2's estimator: a causal one-level UNet over mel frames (spec section 5.4).

Inputs and outputs are [rows, frames, channels]. Convolutions are causal and attention is limited by the pass's chunk
mask, so a pass may hold a whole utterance or only the frames after a cached state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.common.checkpoint.flow_config import UNetConfig
from services.decode.flow.estimator import EstimatorNetwork
from services.decode.flow.forward_pass import ForwardContext
from services.decode.flow.kv_cache import KvLayout

_SINUSOIDS = 320
_TAIL = 2
"""Earlier frames that a convolution sees."""


class CausalConv(nn.Conv1d):
    """A convolution over this frame and the two before it."""

    def __init__(self, in_channels: int, out_channels: int, index: int) -> None:
        super().__init__(in_channels, out_channels, _TAIL + 1)
        self.index = index

    def over(self, x: Tensor, frames: ForwardContext) -> Tensor:
        out: Tensor = self(frames.left(self.index, x, _TAIL).transpose(1, 2))
        return out.transpose(1, 2)


class Block(nn.Module):
    """Causal convolution, LayerNorm, Mish."""

    def __init__(self, in_channels: int, channels: int, index: int) -> None:
        super().__init__()
        self.block = nn.ModuleDict({"0": CausalConv(in_channels, channels, index), "2": nn.LayerNorm(channels)})
        self.activate = self._activate

    def forward(self, x: Tensor, frames: ForwardContext) -> Tensor:
        return self.activate(cast(CausalConv, self.block["0"]).over(x, frames))

    def _activate(self, x: Tensor) -> Tensor:
        return F.mish(self.block["2"](x), inplace=True)


class ResBlock(nn.Module):
    """Two blocks around the time term, and a pointwise shortcut."""

    def __init__(self, in_channels: int, channels: int, time_width: int, index: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Mish(), nn.Linear(time_width, channels))
        self.block1 = Block(in_channels, channels, index)
        self.block2 = Block(channels, channels, index + 1)
        self.res_conv = nn.Conv1d(in_channels, channels, 1)

    def forward(self, x: Tensor, time_term: Tensor, frames: ForwardContext) -> Tensor:
        h = self.block2(self.block1(x, frames) + time_term, frames)
        out: Tensor = h + F.linear(x, self.res_conv.weight[..., 0], self.res_conv.bias)
        return out


class Attention(nn.Module):
    """Attention without positions; queries, keys and values without bias. `TransformerBlock` applies `to_out`."""

    def __init__(self, channels: int, heads: int, head_dim: int, index: int) -> None:
        super().__init__()
        self.heads, self.head_dim, self.index = heads, head_dim, index
        self.to_q = nn.Linear(channels, heads * head_dim, bias=False)
        self.to_k = nn.Linear(channels, heads * head_dim, bias=False)
        self.to_v = nn.Linear(channels, heads * head_dim, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(heads * head_dim, channels)])

    def forward(self, x: Tensor, frames: ForwardContext) -> Tensor:
        """Attention output, [R, N, heads * head_dim]."""
        q, k, v = (f(x).unflatten(-1, (self.heads, self.head_dim)) for f in (self.to_q, self.to_k, self.to_v))
        return frames.attend(self.index, q, k, v)


class GeluProjection(nn.Module):
    def __init__(self, channels: int, units: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, units)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x))


class FeedForward(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        units = 4 * channels
        self.net = nn.ModuleDict({"0": GeluProjection(channels, units), "2": nn.Linear(units, channels)})

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net["2"](self.net["0"](x))
        return out


class TransformerBlock(nn.Module):
    def __init__(self, channels: int, heads: int, head_dim: int, index: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, heads, head_dim, index)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)
        self.after_attention = self._after_attention

    def forward(self, x: Tensor, frames: ForwardContext) -> Tensor:
        return self.after_attention(x, self.attn1(self.norm1(x), frames))

    def _after_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.attn1.to_out[0](attended)
        out: Tensor = x + self.ff(self.norm3(x))
        return out


class TimeEmbedding(nn.Module):
    """Flow time in 0 … 1 to the input vector of every residual block: [T] -> [T, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(_SINUSOIDS, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        half = _SINUSOIDS // 2
        rate = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * -(math.log(10000.0) / (half - 1)))
        angle = 1000.0 * t[:, None] * rate
        waves = torch.cat((angle.sin(), angle.cos()), dim=-1).to(self.linear_1.weight.dtype)
        out: Tensor = self.linear_2(F.silu(self.linear_1(waves)))
        return out


class UNet(EstimatorNetwork):
    """The estimator."""

    conditions = ("mu", "speaker", "cond")

    def __init__(self, config: UNetConfig, mel: int) -> None:
        super().__init__()
        self._counts = config.blocks
        channels = config.channels
        self._channels, self._heads = channels, (config.heads, config.head_dim)
        self._time_width = 4 * channels
        self.layers = 0
        self._convs = 0
        self.time_mlp = TimeEmbedding(self._time_width)
        self.down_blocks = nn.ModuleList([nn.ModuleList([*self._stage(4 * mel), self._plain_conv()])])
        self.mid_blocks = nn.ModuleList(nn.ModuleList(self._stage(channels)) for _ in range(config.mid_stages))
        self.up_blocks = nn.ModuleList([nn.ModuleList([*self._stage(2 * channels), self._plain_conv()])])
        self.final_block = Block(channels, channels, self._convs)
        self.final_proj = nn.Conv1d(channels, mel, 1)

    def _stage(self, in_channels: int) -> Iterator[nn.Module]:
        yield ResBlock(in_channels, self._channels, self._time_width, self._convs)
        self._convs += 2
        first, self.layers = self.layers, self.layers + self._counts
        yield nn.ModuleList(
            TransformerBlock(self._channels, *self._heads, index) for index in range(first, self.layers)
        )

    def _plain_conv(self) -> CausalConv:
        self._convs += 1
        return CausalConv(self._channels, self._channels, self._convs - 1)

    def compile_parts(self) -> None:
        for module in self.modules():
            if isinstance(module, Block):
                module.activate = torch.compile(module._activate, dynamic=True)
            elif isinstance(module, TransformerBlock):
                module.after_attention = torch.compile(module._after_attention, dynamic=True)

    @property
    def dtype(self) -> torch.dtype:
        return self.final_proj.weight.dtype

    @property
    def mel(self) -> int:
        return self.final_proj.out_channels

    def layout(self, positions: int, steps: int, rows: int) -> KvLayout:
        heads, head_dim = self._heads
        tails = sum(_TAIL * one.in_channels for one in self.modules() if isinstance(one, CausalConv))
        return KvLayout(self.layers, positions, heads, head_dim, steps, rows, tails)

    def time_terms(self, t: Tensor) -> list[Tensor]:
        """The time terms of the residual blocks, in order: [T] -> tensors [T, 1, channels]."""
        embedding = self.time_mlp(t)
        stages = [self.down_blocks[0], *self.mid_blocks, self.up_blocks[0]]
        return [cast(ResBlock, cast(nn.ModuleList, stage)[0]).mlp(embedding)[:, None] for stage in stages]

    def forward(self, x: Tensor, time_terms: list[Tensor], frames: ForwardContext) -> Tensor:
        """x [R, N, 4 * mel] = (noisy mel | mu | speaker | cond) -> velocity [R, N, mel]."""
        terms = iter(time_terms)
        resnet, transformers, conv = cast(nn.ModuleList, self.down_blocks[0])
        x = self._run(x, resnet, cast(nn.ModuleList, transformers), next(terms), frames)
        skip = x
        x = cast(CausalConv, conv).over(x, frames)
        for stage in self.mid_blocks:
            resnet, transformers = cast(nn.ModuleList, stage)
            x = self._run(x, resnet, cast(nn.ModuleList, transformers), next(terms), frames)
        resnet, transformers, conv = cast(nn.ModuleList, self.up_blocks[0])
        x = self._run(torch.cat((x, skip), dim=-1), resnet, cast(nn.ModuleList, transformers), next(terms), frames)
        x = self.final_block(cast(CausalConv, conv).over(x, frames), frames)
        return F.linear(x, self.final_proj.weight[..., 0], self.final_proj.bias)

    def _run(
        self, x: Tensor, resnet: nn.Module, transformers: nn.ModuleList, term: Tensor, frames: ForwardContext
    ) -> Tensor:
        x = resnet(x, term, frames)
        for block in transformers:
            x = block(x, frames)
        return x
