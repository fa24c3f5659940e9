"""CosyVoice3's estimator in few kernels, for programs: the network of `flow.dit` over the same weights.

A block has eight kernels: the modulated norm; the joined product of queries, keys and values; their rotation;
attention; the output's product with gate and residual; the modulated norm; product and GELU; product with gate and
residual.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from torch import Tensor, nn

from services.decode.estimators.kernels import PLAIN, Affine, LayerKernels, joined
from services.decode.flow.dit import BLOCK_TERMS, EPS, FINAL_TERMS, DiT, DiTBlock
from services.decode.flow.program import FixedContext


class _Block:
    def __init__(self, block: DiTBlock) -> None:
        attention = block.attn
        self._index, self._heads = attention.index, attention.heads
        self._qkv = joined(attention.to_q, attention.to_k, attention.to_v)
        first, last = block.ff.ff["0"], block.ff.ff["2"]
        products = (attention.to_out[0], cast(nn.Sequential, first)[0], last)
        self._out, self._up, self._down = (Affine(one.weight, one.bias) for one in cast(Iterable[nn.Linear], products))

    def __call__(
        self, x: Tensor, terms: list[Tensor], rotary: tuple[Tensor, Tensor], frames: FixedContext, kernels: LayerKernels
    ) -> Tensor:
        shift, scale, attention_gate, unit_shift, unit_scale, unit_gate = terms
        qkv = kernels.product(kernels.modulate(x, shift, scale, EPS), self._qkv)
        q, k, v = kernels.rotate(qkv.view(*qkv.shape[:2], 3, self._heads, -1), rotary)
        x = kernels.product(frames.attend(self._index, q, k, v), self._out, gate=attention_gate, residual=x)
        units = kernels.product(kernels.modulate(x, unit_shift, unit_scale, EPS), self._up, gelu="tanh")
        return kernels.product(units, self._down, gate=unit_gate, residual=x)


class FusedDiT:
    """The network of a program; see `flow.program.StepNetwork`. Shares most of its weights with the plain network."""

    def __init__(self, network: DiT, kernels: LayerKernels = PLAIN) -> None:
        self._network, self.kernels = network, kernels
        self._blocks = [_Block(cast(DiTBlock, block)) for block in network.transformer_blocks]
        self._velocity = Affine(network.proj_out.weight, network.proj_out.bias)

    def __call__(self, x: Tensor, time_terms: list[Tensor], frames: FixedContext) -> Tensor:
        """Like `DiT.forward`."""
        kernels = self.kernels
        rotary = self._network.rotary_embed(frames.positions(x))
        x = self._network.input_embed(x, frames)
        for index, block in enumerate(self._blocks):
            x = block(x, time_terms[index * BLOCK_TERMS : (index + 1) * BLOCK_TERMS], rotary, frames, kernels)
        scale, shift = time_terms[-FINAL_TERMS:]
        return kernels.product(kernels.modulate(x, shift, scale, EPS), self._velocity)
