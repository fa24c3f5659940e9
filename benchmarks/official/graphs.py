"""Writes stand-ins for the official front-end graphs: same inputs and outputs, similar size and work, random weights.

The speech tokenizer has two convolutions of stride 2, six transformer blocks of width 1280 with 20 heads and a
quantiser of eight three-level digits: 123 million parameters, as the official graph. The speaker encoder is a stack of
convolutions with mean and deviation over time: 7 million parameters, as the official graph. The official layers are of
another kind, so its time is an estimate.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_MELS, _WIDTH, _HEADS, _BLOCKS, _DIGITS = 128, 1280, 20, 6, 8
_FBANK, _CHANNELS, _LAYERS, _EMBEDDING = 80, 512, 8, 192


class _Builder:
    """Collects nodes and weights; every method returns the name of its result."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(seed)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, values: NDArray[np.generic]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def random(self, *shape: int) -> str:
        fan_in = math.prod(shape[1:]) if len(shape) > 2 else shape[0]
        return self.constant(self._random.standard_normal(shape, dtype=np.float32) / np.float32(math.sqrt(fan_in)))

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, dtype=np.int64))

    def linear(self, x: str, inputs: int, outputs: int) -> str:
        return self.op("MatMul", x, self.random(inputs, outputs))

    def norm(self, x: str, width: int) -> str:
        scale, bias = self.constant(np.ones(width, np.float32)), self.constant(np.zeros(width, np.float32))
        return self.op("LayerNormalization", x, scale, bias, axis=-1)

    def save(self, path: Path, inputs: list[onnx.ValueInfoProto], output: onnx.ValueInfoProto) -> None:
        graph = helper.make_graph(self.nodes, path.stem, inputs, [output], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 9
        onnx.save(model, str(path))


def write_speech_tokenizer(path: Path, seed: int = 0) -> None:
    """feats [1, 128, T] float32, feats_length [1] int32 -> ids [1, about T / 4] int32 below 6561."""
    b = _Builder(seed)
    x = b.op("Conv", "feats", b.random(_WIDTH, _MELS, 3), strides=[2], pads=[1, 1])
    x = b.op("Conv", b.op("Erf", x), b.random(_WIDTH, _WIDTH, 3), strides=[2], pads=[1, 1])
    x = b.op("Transpose", x, perm=[0, 2, 1])
    for _ in range(_BLOCKS):
        x = b.op("Add", x, _attention(b, b.norm(x, _WIDTH)))
        wide = b.op("Erf", b.linear(b.norm(x, _WIDTH), _WIDTH, 4 * _WIDTH))
        x = b.op("Add", x, b.linear(wide, 4 * _WIDTH, _WIDTH))
    digits = b.op("Round", b.op("Tanh", b.linear(b.norm(x, _WIDTH), _WIDTH, _DIGITS)))
    shifted = b.op("Add", digits, b.constant(np.ones(1, np.float32)))
    place = b.constant((3.0 ** np.arange(_DIGITS)).astype(np.float32)[:, None])
    ids = b.op("Squeeze", b.op("MatMul", shifted, place), b.ints(2))
    # The official graph has the length as an input; adding zero times its value keeps it in this graph.
    zero = b.op("Mul", b.op("Cast", "feats_length", to=TensorProto.FLOAT), b.constant(np.zeros(1, np.float32)))
    b.nodes.append(helper.make_node("Cast", [b.op("Add", ids, zero)], ["indices"], to=TensorProto.INT32))
    feats = helper.make_tensor_value_info("feats", TensorProto.FLOAT, [1, _MELS, "T"])
    length = helper.make_tensor_value_info("feats_length", TensorProto.INT32, [1])
    b.save(path, [feats, length], helper.make_tensor_value_info("indices", TensorProto.INT32, [1, "N"]))


def _attention(b: _Builder, x: str) -> str:
    size = _WIDTH // _HEADS
    shape, back = b.ints(1, -1, _HEADS, size), b.ints(1, -1, _WIDTH)

    def heads(order: list[int]) -> str:
        return b.op("Transpose", b.op("Reshape", b.linear(x, _WIDTH, _WIDTH), shape), perm=order)

    scores = b.op("MatMul", heads([0, 2, 1, 3]), heads([0, 2, 3, 1]))
    weights = b.op("Softmax", b.op("Mul", scores, b.constant(np.array([size**-0.5], np.float32))), axis=-1)
    mixed = b.op("Transpose", b.op("MatMul", weights, heads([0, 2, 1, 3])), perm=[0, 2, 1, 3])
    return b.linear(b.op("Reshape", mixed, back), _WIDTH, _WIDTH)


def write_speaker_encoder(path: Path, seed: int = 0) -> None:
    """input [1, T, 80] float32 -> embedding [1, 192]."""
    b = _Builder(seed)
    x = b.op("Transpose", "input", perm=[0, 2, 1])
    x = b.op("Relu", b.op("Conv", x, b.random(_CHANNELS, _FBANK, 5), strides=[2], pads=[2, 2]))
    for _ in range(_LAYERS):
        x = b.op("Relu", b.op("Conv", x, b.random(_CHANNELS, _CHANNELS, 3), pads=[1, 1]))
    mean = b.op("ReduceMean", x, axes=[2], keepdims=1)
    centred = b.op("Sub", x, mean)
    deviation = b.op("Sqrt", b.op("ReduceMean", b.op("Mul", centred, centred), axes=[2], keepdims=1))
    pooled = b.op("Flatten", b.op("Concat", mean, deviation, axis=1))
    b.nodes.append(helper.make_node("MatMul", [pooled, b.random(2 * _CHANNELS, _EMBEDDING)], ["output"]))
    fbank = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, "T", _FBANK])
    b.save(path, [fbank], helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, _EMBEDDING]))
