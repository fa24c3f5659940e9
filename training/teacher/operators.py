"""Operators of ONNX in torch: those that the teacher's graph has.

Each entry of OPERATORS makes, when the graph is loaded, the function that runs the node. The function gets the node's
tensors and creates new ones only on the device of the node, so a graph runs in the same way on a GPU and on a CPU.
Tensors of ONNX type int32 and uint8 are held in float32: the teacher's integers are small enough for that.

The Fourier transform is a matrix product: cuFFT makes a plan for each new length, which costs more time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from training.teacher import sums
from training.teacher.node import Array, Function, Node, Operator

FLOAT, INT32, INT64, BOOL = 1, 6, 7, 9
"""Numbers of ONNX's types, of those that Cast converts to."""


def _plain(function: Function) -> Operator:
    return Operator(lambda node: function)


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _cast(node: Node) -> Function:
    to = node.attributes["to"]
    if to == INT32:
        return torch.trunc
    kind = {FLOAT: torch.float32, INT64: torch.int64, BOOL: torch.bool}[to]
    return lambda x: x if x.dtype == kind else x.to(kind)


def _clip(node: Node) -> Function:
    limits = [None if limit is None else float(limit) for limit in (*node.known, None, None)[1:3]]
    return lambda x: torch.clamp(x, limits[0], limits[1])


def _concat(node: Node) -> Function:
    axis = node.attributes["axis"]
    return lambda *parts: torch.cat(parts, axis)


def _constant_of_shape(node: Node) -> Function:
    value = torch.from_numpy(np.array(node.attributes.get("value", np.zeros(1, dtype=np.float32))))
    return lambda shape: torch.full(shape.tolist(), value.item(), dtype=value.dtype, device=node.device)


def _cumsum(node: Node) -> Function:
    if node.attributes.get("exclusive") or node.attributes.get("reverse"):
        raise ValueError("CumSum: exclusive and reverse are not supported")
    (axis,) = node.integers(1)
    return lambda x: torch.cumsum(x, axis)


def _expand(x: Tensor, shape: Array) -> Tensor:
    return x.expand(np.broadcast_shapes(x.shape, shape.tolist()))


def _fused_matmul(node: Node) -> Function:
    first, second = (node.attributes.get(name, 0) for name in ("transA", "transB"))
    alpha = node.attributes.get("alpha", 1.0)

    def multiply(a: Tensor, b: Tensor) -> Tensor:
        made = torch.matmul(a.mT if first else a, b.mT if second else b)
        return made if alpha == 1 else made * alpha

    return multiply


def _gather(node: Node) -> Function:
    axis, known = node.attributes.get("axis", 0), node.known[1]
    if known is not None and known.ndim == 0:
        place = int(known)
        return lambda x, _: x.select(axis, place)
    if known is not None and (known < 0).any():
        raise ValueError("Gather: several places from the end are not supported")

    def gather(x: Tensor, places: Tensor) -> Tensor:
        picked = x.index_select(axis, places.reshape(-1))
        return picked.reshape(*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])

    return gather


def _layer_norm(node: Node) -> Function:
    if node.attributes.get("axis", -1) != -1:
        raise ValueError("LayerNormalization: only axis -1 is supported")
    epsilon = node.attributes.get("epsilon", 1e-5)
    return lambda x, scale, bias: functional.layer_norm(x, x.shape[-1:], scale, bias, epsilon)


def _skip_layer_norm(node: Node) -> Function:
    epsilon = node.attributes["epsilon"]
    return lambda x, skip, scale, bias: functional.layer_norm(x + skip, x.shape[-1:], scale, bias, epsilon)


def _leaky_relu(node: Node) -> Function:
    alpha = node.attributes.get("alpha", 0.01)
    return lambda x: functional.leaky_relu(x, alpha)


def _pad(node: Node) -> Function:
    pads = node.integers(1)
    half = len(pads) // 2
    if any(pads[: half - 1]) or any(pads[half:-1]):
        raise ValueError(f"Pad {pads}: only the last dimension is supported")
    mode = node.attributes.get("mode", b"constant").decode()
    return lambda x: functional.pad(x, (pads[half - 1], pads[-1]), mode)


def _pow(node: Node) -> Function:
    known = node.known[1]
    if known is not None and known.size == 1 and float(known) == 2:
        return lambda x, _: torch.square(x)
    return torch.pow


def _range(node: Node) -> Function:
    return lambda first, end, step: torch.arange(first.item(), end.item(), step.item(), device=node.device)


def _reduce(function: Function) -> Operator:
    def build(node: Node) -> Function:
        axes, keep = node.integers(1), bool(node.attributes.get("keepdims", 1))
        return lambda x: function(x, axes, keep)

    return Operator(build, takes=(0,))


def _reshape(node: Node) -> Function:
    keeps = not node.attributes.get("allowzero")
    known = None if node.known[1] is None else node.integers(1)
    if known is not None and 0 not in known:
        return lambda x, _: x.reshape(known)

    def reshape(x: Tensor, shape: Array) -> Tensor:
        wanted: list[int] = shape.tolist()
        if keeps and 0 in wanted:
            wanted = [x.shape[place] if size == 0 else size for place, size in enumerate(wanted)]
        return x.reshape(wanted)

    return reshape


def _resize(node: Node) -> Function:
    *others, scale = (float(number) for number in node.constant(2))
    mode, places = node.attributes["mode"], node.attributes["coordinate_transformation_mode"]
    if any(other != 1 for other in others):
        raise ValueError("Resize: only the last dimension is supported")
    if (mode, places) == (b"nearest", b"asymmetric") and scale == int(scale):
        return lambda x: x.repeat_interleave(int(scale), dim=-1)
    if (mode, places) != (b"linear", b"half_pixel"):
        raise ValueError(f"Resize: {mode!r}, {places!r} with scale {scale} is not supported")
    return lambda x: functional.interpolate(x, size=int(x.shape[-1] * scale), mode="linear")


def _scatter(x: Tensor, places: Tensor, updates: Tensor) -> Tensor:
    return x.index_put(places.unbind(-1), updates)


def _slice(node: Node) -> Function:
    axes = node.integers(3) if len(node.known) > 3 else None
    steps = node.integers(4) if len(node.known) > 4 else None

    def index(first: Sequence[int], last: Sequence[int]) -> tuple[slice, ...]:
        used = range(len(first)) if axes is None else axes
        strides = [1] * len(first) if steps is None else steps
        made = [slice(None)] * (max(used) + 1)
        for axis, *limits in zip(used, first, last, strides, strict=True):
            made[axis] = slice(*limits)
        return tuple(made)

    if node.known[1] is not None and node.known[2] is not None:
        fixed = index(node.integers(1), node.integers(2))
        return lambda x, first, last: x[fixed]
    return lambda x, first, last: x[index(first.tolist(), last.tolist())]


def _softmax(node: Node) -> Function:
    axis = node.attributes.get("axis", -1)
    return lambda x: torch.softmax(x, axis)


def _split(node: Node) -> Function:
    sizes, axis = node.integers(1), node.attributes.get("axis", 0)
    return lambda x: torch.split(x, sizes, axis)


def _squeeze(node: Node) -> Function:
    axes = tuple(node.integers(1))
    return lambda x: x.squeeze(axes)


def _unsqueeze(node: Node) -> Function:
    axes = sorted(node.integers(1))
    if axes[0] < 0 and len(axes) > 1:
        raise ValueError("Unsqueeze: several axes from the end are not supported")

    def unsqueeze(x: Tensor) -> Tensor:
        for axis in axes:
            x = x.unsqueeze(axis)
        return x

    return unsqueeze


def _stft(node: Node) -> Function:
    step, window = int(node.constant(1)), node.constant(2).astype(np.float64)
    size = len(window)
    if not node.attributes.get("onesided", 1) or (len(node.known) > 3 and int(node.constant(3)) != size):
        raise ValueError("STFT: only one side, with frames as long as the window, is supported")
    turns = np.exp(-2j * np.pi * np.outer(np.arange(size), np.arange(size // 2 + 1)) / size) * window[:, None]
    basis = np.stack([turns.real, turns.imag], axis=-1).reshape(size, -1).astype(np.float32)
    waves = torch.from_numpy(basis).to(node.device)

    def transform(x: Tensor) -> Tensor:
        frames = x.reshape(len(x), -1).unfold(1, size, step)
        return torch.matmul(frames, waves).reshape(*frames.shape[:2], -1, 2)

    return transform


def _transpose(node: Node) -> Function:
    order = node.attributes["perm"]
    return lambda x: x.permute(order)


OPERATORS: Mapping[str, Operator] = {
    "Add": _plain(torch.add),
    "And": _plain(torch.logical_and),
    "Atan": _plain(torch.atan),
    "Cast": Operator(_cast),
    "Clip": Operator(_clip, takes=(0,)),
    "Concat": Operator(_concat),
    "ConstantOfShape": Operator(_constant_of_shape, host=(0,)),
    "Conv": Operator(sums.conv, takes=(0,)),
    "ConvInteger": Operator(sums.conv_integer, takes=(0, 2)),
    "ConvTranspose": Operator(sums.conv_transpose, takes=(0,)),
    "Cos": _plain(torch.cos),
    "CumSum": Operator(_cumsum, takes=(0,)),
    "DequantizeLinear": _plain(sums.dequantize),
    "Div": _plain(_divide),
    "DynamicQuantizeLSTM": Operator(sums.dynamic_quantize_lstm, takes=(0, 5, 6)),
    "DynamicQuantizeLinear": _plain(sums.dynamic_quantize),
    "Equal": _plain(torch.eq),
    "Exp": _plain(torch.exp),
    "Expand": Operator(lambda node: _expand, host=(1,)),
    "FastGelu": _plain(lambda x, bias: functional.gelu(x + bias, approximate="tanh")),
    "Floor": _plain(torch.floor),
    "FusedMatMul": Operator(_fused_matmul),
    "Gather": Operator(_gather),
    "Greater": _plain(torch.gt),
    "GreaterOrEqual": _plain(torch.ge),
    "LayerNormalization": Operator(_layer_norm),
    "LeakyRelu": Operator(_leaky_relu),
    "Less": _plain(torch.lt),
    "MatMul": _plain(torch.matmul),
    "MatMulInteger": Operator(sums.matmul_integer, takes=(0, 2)),
    "Mul": _plain(torch.mul),
    "NonZero": _plain(lambda x: x.nonzero().mT),
    "Pad": Operator(_pad, takes=(0,)),
    "Pow": Operator(_pow),
    "Range": Operator(_range, host=(0, 1, 2)),
    "ReduceMean": _reduce(torch.mean),
    "ReduceSum": _reduce(torch.sum),
    "Reshape": Operator(_reshape, host=(1,)),
    "Resize": Operator(_resize, takes=(0,)),
    "Round": _plain(torch.round),
    "STFT": Operator(_stft, takes=(0,)),
    "ScatterND": _plain(_scatter),
    "Sigmoid": _plain(torch.sigmoid),
    "Sin": _plain(torch.sin),
    "SkipLayerNormalization": Operator(_skip_layer_norm),
    "Slice": Operator(_slice, takes=(0, 1, 2), host=(1, 2)),
    "Softmax": Operator(_softmax),
    "Split": Operator(_split, takes=(0,)),
    "Sqrt": _plain(torch.sqrt),
    "Squeeze": Operator(_squeeze, takes=(0,)),
    "Sub": _plain(torch.sub),
    "Tanh": _plain(torch.tanh),
    "Transpose": Operator(_transpose),
    "Unsqueeze": Operator(_unsqueeze, takes=(0,)),
    "Where": _plain(torch.where),
}
"""By ONNX's names. `Shape` is missing: the graph answers it without an operator."""
