"""Prototype: a faster Euler step of the decode estimator, as one ONNX graph.

`rewritten` changes three operations, so that they export well: a causal convolution becomes one matrix product over its
three taps, Mish becomes one exponential, and queries, keys and values come from one product. `GraphEstimator` runs the
rewritten network as one graph where one stream appends to a state that is cached in float32; every other pass takes the
rewritten network. It reads the private fields of `Pass` and `KvCache`, which a product version must not.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cpu_prototypes.sessions import Graph
from services.decode.flow.forward_pass import ForwardContext, Pass
from services.decode.flow.kv_cache import KvLayout
from services.decode.flow.unet import Attention, Block, CausalConv, UNet

OPSET = 20
"""The first one with GELU as one operation."""
TAPS = 3
MOST_EXPONENT = 20.0
"""Mish is the identity in float32 from here on."""


class ProductConv(CausalConv):
    """The convolution as one matrix product: x [R, N, in] -> [R, N, out]."""

    taps: Tensor
    """[out, 3 * in], the oldest frame first."""

    def prepare(self) -> None:
        self.taps = self.weight.permute(0, 2, 1).reshape(self.out_channels, -1).contiguous()

    def over(self, x: Tensor, frames: ForwardContext) -> Tensor:
        extended = frames.left(self.index, x, TAPS - 1)
        if torch.onnx.is_in_onnx_export():
            windows = torch.cat((extended[:, :-2], extended[:, 1:-1], extended[:, 2:]), dim=-1)
            return F.linear(windows, self.taps, self.bias)
        rows, length, channels = extended.shape
        count = length - TAPS + 1
        # Neighbouring frames lie side by side in memory, so each window is a view.
        windows = extended.as_strided((rows, count, TAPS * channels), (length * channels, channels, 1))
        return F.linear(windows.reshape(rows * count, -1), self.taps, self.bias).view(rows, count, -1)


class OneExponentialBlock(Block):
    """Mish by x * n / (n + 2) with n = e^x * (e^x + 2), which equals x * tanh(log(1 + e^x))."""

    def _activate(self, x: Tensor) -> Tensor:
        x = self.block["2"](x)
        power = x.clamp(max=MOST_EXPONENT).exp_()
        ratio = power * (power + 2)
        return x * (ratio / (ratio + 2))


class JoinedAttention(Attention):
    """Queries, keys and values by one product."""

    joined: Tensor

    def prepare(self) -> None:
        self.joined = torch.cat((self.to_q.weight, self.to_k.weight, self.to_v.weight))

    def forward(self, x: Tensor, frames: ForwardContext) -> Tensor:
        q, k, v = F.linear(x, self.joined).view(x.shape[0], -1, 3, self.heads, self.head_dim).unbind(2)
        return frames.attend(self.index, q, k, v)


def rewritten(network: UNet) -> UNet:
    """A copy of the network with the faster operations."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, CausalConv):
            module.__class__ = ProductConv
            cast(ProductConv, module).prepare()
        elif isinstance(module, Block):
            module.__class__ = OneExponentialBlock
            module.activate = module._activate
        elif isinstance(module, Attention):
            module.__class__ = JoinedAttention
            cast(JoinedAttention, module).prepare()
    return network


class TracedState:
    """`ForwardContext` of one stream for an export: cached K/V are inputs, new K/V are collected as outputs."""

    def __init__(self, mask: Tensor, cached_kv: Tensor, tails: tuple[Tensor, ...]) -> None:
        self._mask, self._cached, self._tails = mask, cached_kv, tails
        self.new_kv: list[Tensor] = []
        self.new_tails: dict[int, Tensor] = {}

    def positions(self, x: Tensor) -> Tensor:
        raise NotImplementedError("the UNet has no positions")

    def left(self, layer: int, x: Tensor, width: int) -> Tensor:
        extended = torch.cat((self._tails[layer], x), dim=1)
        self.new_tails[layer] = extended[:, -width:]
        return extended

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads, head_dim = q.shape[2:]
        self.new_kv.append(torch.stack((k.flatten(2), v.flatten(2))))
        cached_kv = self._cached[layer].view(2, q.shape[0], -1, heads, head_dim)
        keys, values = torch.cat((cached_kv[0], k), dim=1), torch.cat((cached_kv[1], v), dim=1)
        scores = q.transpose(1, 2) @ keys.permute(0, 2, 3, 1) * head_dim**-0.5 + self._mask
        out = torch.softmax(scores, dim=-1) @ values.transpose(1, 2)
        return out.transpose(1, 2).flatten(2)


class AppendStep(nn.Module):
    """One Euler step of one stream that appends N frames to T kept ones."""

    def __init__(self, network: UNet, terms: int) -> None:
        super().__init__()
        self.network, self.terms = network, terms

    def forward(self, x: Tensor, mask: Tensor, cached_kv: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """x [2, N, 4 * mel], mask [N, T + N], cached_kv [layers, 2, 2, T, width], then the time terms and the
        convolutions' tails [2, 2, channels].

        Returns the velocity [2, N, mel], the new keys and values [layers, 2, 2, N, width], and the new tails.
        """
        frames = TracedState(mask, cached_kv, rest[self.terms :])
        velocity = self.network(x, list(rest[: self.terms]), frames)
        return velocity, torch.stack(frames.new_kv), *(frames.new_tails[layer] for layer in sorted(frames.new_tails))


class GraphEstimator:
    """Stands in for the network it is made from (`services.decode.flow.solver.Estimator`)."""

    dtype = torch.float32

    def __init__(self, network: UNet) -> None:
        self._network = rewritten(network)
        convs = {module.index: module.in_channels for module in network.modules() if isinstance(module, CausalConv)}
        self._channels = [convs[index] for index in sorted(convs)]
        self._graph: Graph | None = None

    def __call__(self, x: Tensor, time_terms: list[Tensor], frames: Pass) -> Tensor:
        cache, indices, step = frames._cache, frames._indices, frames._step
        if cache is None or indices is None or len(frames.lengths) > 1 or frames.starts[0] == 0:
            out: Tensor = self._network(x, time_terms, frames)
            return out
        if self._graph is None:
            self._graph = self._export(x, time_terms, cache.layout)
        kept, new, layers = frames.starts[0], frames.lengths[0], cache.layout.layers
        values = cache._values[step * layers : (step + 1) * layers]
        blocks = indices.blocks
        picked = values[:, :, :, blocks] if isinstance(blocks, slice) else values.index_select(3, blocks)
        cached_kv = picked.flatten(3, 4)[:, :, :, :kept]
        mask = torch.zeros(new, kept + new) if frames.mask is None else frames.mask[0, 0].expand(new, kept + new)
        tails = [cache.tails(step, index, TAPS - 1, count, x.dtype) for index, count in enumerate(self._channels)]
        tails_before = [tail.index_select(1, indices.slots_before)[:, 0] for tail in tails]
        velocity, new_kv, *tails_after = self._graph(x, mask, cached_kv, *time_terms, *tails_before)
        values.flatten(3, 4)[:, :, :, indices.places] = new_kv
        for tail, after in zip(tails, tails_after, strict=True):
            tail[:, indices.slots_after[0]] = after
        return velocity

    def _export(self, x: Tensor, time_terms: list[Tensor], layout: KvLayout) -> Graph:
        kept, new = 100, 50
        width = layout.heads * layout.head_dim
        inputs = (torch.randn(2, new, x.shape[-1]), torch.zeros(new, kept + new))
        cached_kv = torch.randn(layout.layers, 2, 2, kept, width)
        tails = [torch.randn(2, TAPS - 1, count) for count in self._channels]
        names = ["x", "mask", "cached_kv", *(f"term_{index}" for index in range(len(time_terms)))]
        names += [f"tail_{index}" for index in range(len(tails))]
        axes = {"x": {1: "new"}, "mask": {0: "new", 1: "all"}, "cached_kv": {3: "kept"}}
        step = AppendStep(self._network, len(time_terms))
        return Graph(step, (*inputs, cached_kv, *time_terms, *tails), names, axes, OPSET)
