"""Operators of ONNX in torch that have weights: convolutions, products of integers, LSTM.

Convolutions are im2col and one matrix product: cuDNN makes a plan for each new length, which costs more time than these
short sums.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from training.teacher.node import Function, Node


def _one_dimension(node: Node) -> tuple[int, int, int, int, int]:
    """Stride, dilation, padding, groups and output padding of a convolution over one dimension."""
    attributes = node.attributes
    stride, dilation = attributes.get("strides", [1]), attributes.get("dilations", [1])
    pads, more = attributes.get("pads", [0, 0]), attributes.get("output_padding", [0])
    if len(stride) != 1 or pads[0] != pads[1]:
        raise ValueError(f"strides {stride} and pads {pads}: only one dimension with equal pads is supported")
    return stride[0], dilation[0], pads[0], attributes.get("group", 1), more[0]


def convolution(node: Node, weight: Tensor) -> Function:
    """Return the convolution of [batch, in, time] with `weight` [out, in, taps]."""
    stride, dilation, pad, groups, _ = _one_dimension(node)
    if groups != 1:
        raise ValueError(f"group {groups}: only 1 is supported")
    taps, flat = weight.shape[2], weight.reshape(len(weight), -1)
    if taps == stride == 1 and pad == 0:
        return lambda x: torch.matmul(flat, x)

    def convolve(x: Tensor) -> Tensor:
        columns = functional.unfold(x.unsqueeze(2), (1, taps), (1, dilation), (0, pad), (1, stride))
        return torch.matmul(flat, columns)

    return convolve


def conv(node: Node) -> Function:
    convolve = convolution(node, node.tensor(1))
    if len(node.known) < 3:
        return convolve
    bias = node.tensor(2)[:, None]
    return lambda x: convolve(x).add_(bias)


def _without_zero(node: Node, place: int, function: Function) -> Function:
    """Let `function` get a quantised input less its zero point, which is input `place`."""
    if place < len(node.known) and node.known[place] is not None and not np.any(node.constant(place)):
        return lambda x, zero: function(x)
    return lambda x, zero: function(torch.sub(x, zero))


def _weight(node: Node, zero_axis: int) -> Tensor:
    """The weight, input 1, less its zero points, input 3."""
    weight = node.constant(1).astype(np.float32)
    if len(node.known) > 3 and node.known[3] is not None:
        zero = node.constant(3).astype(np.float32)
        shape = [1] * weight.ndim
        shape[zero_axis] = zero.size
        weight = weight - zero.reshape(shape)
    return torch.from_numpy(weight).to(node.device)


def conv_integer(node: Node) -> Function:
    return _without_zero(node, 2, convolution(node, _weight(node, 0)))


def matmul_integer(node: Node) -> Function:
    weight = _weight(node, -1)
    return _without_zero(node, 2, lambda x: torch.matmul(x, weight))


def conv_transpose(node: Node) -> Function:
    stride, dilation, pad, groups, more = _one_dimension(node)
    weight = node.tensor(1)
    count, out, taps = weight.shape
    flat = weight.reshape(groups, count // groups, out * taps).transpose(1, 2).contiguous()
    bias = node.tensor(2)[:, None] if len(node.known) > 2 else None

    def convolve(x: Tensor) -> Tensor:
        batch, _, time = x.shape
        length = (time - 1) * stride + dilation * (taps - 1) + 1 - 2 * pad + more
        columns = torch.matmul(flat, x.reshape(batch, groups, count // groups, time))
        columns = columns.reshape(batch, groups * out * taps, time)
        made = functional.fold(columns, (1, length), (1, taps), (1, dilation), (0, pad), (1, stride)).squeeze(2)
        return made if bias is None else made.add_(bias)

    return convolve


def dequantize(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    return torch.mul(torch.sub(x.to(torch.float32), zero.to(torch.float32)), scale)


def dynamic_quantize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = torch.aminmax(x)
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = torch.sub(high, low).div_(255)
    scale = scale.masked_fill_(scale == 0, 1)
    zero = torch.div(low, scale).neg_().clamp_(0, 255).round_()
    return torch.div(x, scale).round_().add_(zero).clamp_(0, 255), scale, zero


_GATES = (0, 2, 3, 1)
"""Places of torch's gates (input, forget, cell, output) in ONNX's order (input, output, forget, cell)."""


def _dequantised(node: Node, place: int, scale: int, zero: int) -> Tensor:
    """A weight [directions, in, 4 * hidden] of an LSTM as torch has it: [directions, 4 * hidden, in]."""
    weight = node.tensor(place)
    directions, _, rows = weight.shape
    scales, zeros = (node.tensor(at).reshape(directions, 1, -1) for at in (scale, zero))
    return _reordered(((weight - zeros) * scales).transpose(1, 2), rows)


def _reordered(rows: Tensor, count: int) -> Tensor:
    """Put the gates, blocks of dimension 1, into torch's order."""
    blocks = torch.split(rows, count // 4, dim=1)
    return torch.cat([blocks[gate] for gate in _GATES], dim=1)


def dynamic_quantize_lstm(node: Node) -> Function:
    inside, outside = _dequantised(node, 1, 8, 9), _dequantised(node, 2, 10, 11)
    directions, rows, width = inside.shape
    hidden = node.attributes["hidden_size"]
    lstm = torch.nn.LSTM(width, hidden, bidirectional=directions == 2, device=node.device)
    biases = [_reordered(half, rows) for half in torch.split(node.tensor(3), rows, dim=1)]
    state: dict[str, Tensor] = {}
    for direction, suffix in zip(range(directions), ("", "_reverse"), strict=False):
        state[f"weight_ih_l0{suffix}"], state[f"weight_hh_l0{suffix}"] = inside[direction], outside[direction]
        state[f"bias_ih_l0{suffix}"], state[f"bias_hh_l0{suffix}"] = (bias[direction] for bias in biases)
    lstm.load_state_dict(state)
    lstm.requires_grad_(False)

    def run(x: Tensor, first: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        made, (last, last_cell) = lstm(x, (first, cell))
        return made.reshape(*x.shape[:2], directions, hidden).transpose(1, 2), last, last_cell

    return run
