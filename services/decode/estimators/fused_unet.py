"""CosyVoice2's estimator in few kernels, for programs: the network of `flow.unet` over the same weights.

A GPU's time per Euler step of few streams is the number of its kernels. A transformer block has five here: norm with
the joined product of queries, keys and values; attention; the output's product with the residual; norm, product and
GELU; product with the residual. A convolution reads and stores its tails itself; what follows it is in the same kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from services.decode.estimators.kernels import PLAIN, Affine, CausalWeights, LayerKernels, Shortcut, joined
from services.decode.flow.program import FixedContext
from services.decode.flow.unet import Block, CausalConv, ResBlock, TransformerBlock, UNet


class _Convolution:
    """A causal convolution and, if it belongs to a block, its norm."""

    def __init__(self, conv: CausalConv, norm: nn.LayerNorm | None = None) -> None:
        self._index, self._norm, self._by = conv.index, norm, CausalWeights.of(conv)

    @classmethod
    def of(cls, block: Block) -> _Convolution:
        return cls(cast(CausalConv, block.block["0"]), cast(nn.LayerNorm, block.block["2"]))

    def __call__(
        self,
        x: Tensor,
        frames: FixedContext,
        kernels: LayerKernels,
        term: Tensor | None = None,
        shortcut: Shortcut | None = None,
    ) -> Tensor:
        tails = frames.tails(self._index, self._by.weight.shape[0] - 1, x)
        return kernels.convolve(x, self._by, tails, norm=self._norm, term=term, shortcut=shortcut)


class _Resnet:
    def __init__(self, block: ResBlock) -> None:
        self._first, self._second = _Convolution.of(block.block1), _Convolution.of(block.block2)
        self._shortcut = _pointwise(block.res_conv)

    def __call__(self, x: Tensor, term: Tensor, frames: FixedContext, kernels: LayerKernels) -> Tensor:
        h = self._first(x, frames, kernels, term=term)
        return self._second(h, frames, kernels, shortcut=Shortcut(x, self._shortcut))


class _Transformer:
    def __init__(self, block: TransformerBlock) -> None:
        attention = block.attn1
        self._index, self._heads, self._head_dim = attention.index, attention.heads, attention.head_dim
        self._before_attention, self._before_units = block.norm1, block.norm3
        self._qkv = joined(attention.to_q, attention.to_k, attention.to_v)
        units, output = block.ff.net["0"], block.ff.net["2"]
        products = (attention.to_out[0], cast(nn.Linear, units.proj), cast(nn.Linear, output))
        self._out, self._up, self._down = (Affine(one.weight, one.bias) for one in cast(Iterable[nn.Linear], products))

    def __call__(self, x: Tensor, frames: FixedContext, kernels: LayerKernels) -> Tensor:
        qkv = kernels.product(x, self._qkv, norm=self._before_attention)
        q, k, v = qkv.view(*qkv.shape[:2], 3, self._heads, self._head_dim).unbind(2)
        x = kernels.product(frames.attend(self._index, q, k, v), self._out, residual=x)
        units = kernels.product(x, self._up, norm=self._before_units, gelu="none")
        return kernels.product(units, self._down, residual=x)


@dataclass(frozen=True)
class _Stage:
    resnet: _Resnet
    transformers: tuple[_Transformer, ...]

    @classmethod
    def of(cls, stage: nn.Module) -> _Stage:
        resnet, transformers, *_ = cast(nn.ModuleList, stage)
        blocks = cast(Iterable[TransformerBlock], transformers)
        return cls(_Resnet(cast(ResBlock, resnet)), tuple(_Transformer(block) for block in blocks))

    def __call__(self, x: Tensor, term: Tensor, frames: FixedContext, kernels: LayerKernels) -> Tensor:
        x = self.resnet(x, term, frames, kernels)
        for transformer in self.transformers:
            x = transformer(x, frames, kernels)
        return x


class FusedUNet:
    """The network of a program; see `flow.program.StepNetwork`. Shares most of its weights with the plain network."""

    def __init__(self, network: UNet, kernels: LayerKernels = PLAIN) -> None:
        self.kernels = kernels
        down, up = network.down_blocks[0], network.up_blocks[0]
        self._down, self._up = _Stage.of(down), _Stage.of(up)
        self._middle = [_Stage.of(stage) for stage in network.mid_blocks]
        self._after_down, self._after_up = (
            _Convolution(cast(CausalConv, cast(nn.ModuleList, stage)[2])) for stage in (down, up)
        )
        self._final = _Convolution.of(network.final_block)
        self._velocity = _pointwise(network.final_proj)

    def __call__(self, x: Tensor, time_terms: list[Tensor], frames: FixedContext) -> Tensor:
        """Like `UNet.forward`."""
        kernels, terms = self.kernels, iter(time_terms)
        x = skip = self._down(x, next(terms), frames, kernels)
        x = self._after_down(x, frames, kernels)
        for stage in self._middle:
            x = stage(x, next(terms), frames, kernels)
        x = self._up(torch.cat((x, skip), dim=-1), next(terms), frames, kernels)
        x = self._final(self._after_up(x, frames, kernels), frames, kernels)
        return kernels.product(x, self._velocity)


def _pointwise(conv: nn.Conv1d) -> Affine:
    return Affine(conv.weight[..., 0].contiguous(), conv.bias)
