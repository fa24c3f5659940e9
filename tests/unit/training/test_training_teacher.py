"""The teacher's graph gives with torch what ONNX Runtime gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from training.teacher.graph import Graph

Array = NDArray[Any]
Graphed = tuple[list[Any], Mapping[str, Array], Mapping[str, Array]]
"""Nodes, constants, inputs; the outputs are called `out`, `out2` and so on."""


def drawn(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def integers(*shape: int, low: int = 0, high: int = 255, kind: type = np.uint8) -> Array:
    return np.random.default_rng(1).integers(low, high, shape).astype(kind)


def numbers(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def model_of(made: Graphed) -> tuple[Any, list[str]]:
    nodes, constants, inputs = made
    outputs = sorted(name for node in nodes for name in node.output if name.startswith("out"))
    graph = helper.make_graph(
        nodes,
        "graph",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(one.dtype), None)
            for name, one in inputs.items()
        ],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    sets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=sets, ir_version=9), outputs


def elementwise() -> Graphed:
    nodes = [
        helper.make_node("Sub", ["x", "mean"], ["a"]),
        helper.make_node("Pow", ["a", "two"], ["b"]),
        helper.make_node("ReduceMean", ["b", "last"], ["c"], keepdims=1),
        helper.make_node("Sqrt", ["c"], ["d"]),
        helper.make_node("Div", ["a", "d"], ["e"]),
        helper.make_node("Greater", ["e", "mean"], ["f"]),
        helper.make_node("Sin", ["e"], ["g"]),
        helper.make_node("Where", ["f", "g", "e"], ["h"]),
        helper.make_node("LeakyRelu", ["h"], ["i"], alpha=0.2),
        helper.make_node("Transpose", ["i"], ["j"], perm=[0, 2, 1]),
        helper.make_node("Softmax", ["j"], ["out"], axis=-1),
        helper.make_node("FastGelu", ["j", "bias"], ["out2"], domain="com.microsoft"),
        helper.make_node(
            "SkipLayerNormalization", ["j", "j", "bias", "bias"], ["out3"], domain="com.microsoft", epsilon=1e-5
        ),
    ]
    constants: dict[str, Array] = {
        "mean": np.array(0.3, dtype=np.float32),
        "two": np.array(2, dtype=np.float32),
        "last": numbers(2),
        "bias": drawn(4),
    }
    return nodes, constants, {"x": drawn(1, 4, 6)}


def quantised() -> Graphed:
    """As the teacher has it: the bias is an integer in units of the product of both scales."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("ConvInteger", ["q", "w", "zero", "wz"], ["y"], pads=[4, 4], dilations=[2], kernel_shape=[5]),
        helper.make_node("Mul", ["scale", "ws"], ["unit"]),
        helper.make_node("Div", ["bias", "unit"], ["units"]),
        helper.make_node("Floor", ["units"], ["bf"]),
        helper.make_node("Cast", ["bf"], ["bi"], to=TensorProto.INT32),
        helper.make_node("Reshape", ["bi", "column"], ["bc"]),
        helper.make_node("Add", ["y", "bc"], ["s"]),
        helper.make_node("Cast", ["s"], ["sf"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["sf", "unit"], ["out"]),
    ]
    constants: dict[str, Array] = {
        "w": integers(3, 4, 5),
        "wz": np.array(120, dtype=np.uint8),
        "ws": np.array(0.01, dtype=np.float32),
        "bias": drawn(3, seed=2),
        "column": numbers(1, -1, 1),
    }
    return nodes, constants, {"x": drawn(1, 4, 20)}


def matrix() -> Graphed:
    """The weights are small: on CPUs without VNNI, ONNX Runtime's sums of two products saturate at 16 bits."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["q", "w", "zero", "wz"], ["y"]),
        helper.make_node("Cast", ["y"], ["yf"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["yf", "scale"], ["out"]),
    ]
    constants: dict[str, Array] = {
        "w": integers(6, 5, low=-60, high=60, kind=np.int8),
        "wz": integers(5, low=-3, high=3, kind=np.int8),
    }
    return nodes, constants, {"x": drawn(1, 7, 6)}


def lstm() -> Graphed:
    names = ["x", "w", "r", "b", "", "h", "h", "", "ws", "wz", "rs", "wz"]
    nodes = [
        helper.make_node(
            "DynamicQuantizeLSTM",
            names,
            ["out", "out2", "out3"],
            domain="com.microsoft",
            hidden_size=4,
            direction="bidirectional",
        )
    ]
    constants: dict[str, Array] = {
        "w": integers(2, 6, 16, low=-60, high=60, kind=np.int8),
        "r": integers(2, 4, 16, low=-60, high=60, kind=np.int8),
        "b": drawn(2, 32),
        "h": drawn(2, 1, 4),
        "ws": np.array([0.004, 0.006], dtype=np.float32),
        "rs": np.array([0.005, 0.003], dtype=np.float32),
        "wz": np.zeros(2, dtype=np.int8),
    }
    return nodes, constants, {"x": drawn(9, 1, 6)}


def transform() -> Graphed:
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["p"], mode="reflect"),
        helper.make_node("STFT", ["p", "step", "window", "size"], ["out"], onesided=1),
    ]
    constants: dict[str, Array] = {
        "pads": numbers(0, 10, 0, 10),
        "step": np.array(5, dtype=np.int64),
        "window": np.hanning(20).astype(np.float32),
        "size": np.array(20, dtype=np.int64),
    }
    return nodes, constants, {"x": drawn(1, 60)}


def resized() -> Graphed:
    nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    linear = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    nodes = [
        helper.make_node("Resize", ["x", "", "double"], ["out"], **nearest),
        helper.make_node("Resize", ["x", "", "more"], ["a"], **linear),
        helper.make_node("Resize", ["a", "", "less"], ["out2"], **linear),
    ]
    scales = {"double": 2.0, "more": 6.0, "less": 1 / 3}
    return nodes, {name: np.array([1, 1, one], dtype=np.float32) for name, one in scales.items()}, {"x": drawn(1, 3, 7)}


def upsampled() -> Graphed:
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w", "b"], ["a"], strides=[3], pads=[1, 1], kernel_shape=[5]),
        helper.make_node(
            "ConvTranspose",
            ["a", "d"],
            ["out"],
            strides=[2],
            pads=[1, 1],
            output_padding=[1],
            group=3,
            kernel_shape=[3],
        ),
        helper.make_node("Conv", ["a", "v", "b"], ["out2"], strides=[2], pads=[1, 1], kernel_shape=[3]),
    ]
    constants = {"w": drawn(4, 3, 5), "b": drawn(3, seed=3), "d": drawn(3, 1, 3), "v": drawn(3, 3, 3)}
    return nodes, constants, {"x": drawn(1, 4, 6)}


def by_durations() -> Graphed:
    """Lengths that a value decides, and shapes that follow from them."""
    nodes = [
        helper.make_node("Round", ["x"], ["r"]),
        helper.make_node("Clip", ["r", "one", ""], ["c"]),
        helper.make_node("Cast", ["c"], ["i"], to=TensorProto.INT64),
        helper.make_node("CumSum", ["i", "axis"], ["s"]),
        helper.make_node("Gather", ["s", "end"], ["n"], axis=0),
        helper.make_node("Range", ["zero", "n", "step"], ["t"]),
        helper.make_node("Unsqueeze", ["t", "first"], ["ta"]),
        helper.make_node("Unsqueeze", ["s", "second"], ["sa"]),
        helper.make_node("Less", ["ta", "sa"], ["l"]),
        helper.make_node("Cast", ["l"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("FusedMatMul", ["m", "m"], ["out"], domain="com.microsoft", transA=1),
        helper.make_node("Shape", ["m"], ["size"]),
        helper.make_node(
            "ConstantOfShape", ["size"], ["k"], value=numpy_helper.from_array(np.ones(1, dtype=np.float32))
        ),
        helper.make_node("Slice", ["k", "from", "to", "axes"], ["kk"]),
        helper.make_node("Concat", ["kk", "m"], ["out2"], axis=1),
    ]
    constants: dict[str, Array] = {
        "one": np.array(1, dtype=np.float32),
        "axis": np.array(0, dtype=np.int32),
        "end": np.array(-1, dtype=np.int64),
        "zero": np.array(0, dtype=np.int64),
        "step": np.array(1, dtype=np.int64),
        "first": numbers(0),
        "second": numbers(1),
        "from": numbers(0),
        "to": numbers(-2),
        "axes": numbers(1),
    }
    return nodes, constants, {"x": np.array([2.5, 0.2, 3.4, 1.5], dtype=np.float32)}


def scattered() -> Graphed:
    nodes = [
        helper.make_node("Shape", ["x"], ["size"]),
        helper.make_node("Gather", ["table", "ids"], ["g"], axis=0),
        helper.make_node("DequantizeLinear", ["g", "scale", "zero"], ["updates"]),
        helper.make_node("ScatterND", ["x", "places", "updates"], ["a"]),
        helper.make_node("Reshape", ["a", "flat"], ["b"]),
        helper.make_node("Split", ["b", "parts"], ["out", "out2"], axis=0),
        helper.make_node("Expand", ["a", "size"], ["out3"]),
    ]
    constants: dict[str, Array] = {
        "table": integers(5, 3, low=-9, high=9, kind=np.int8),
        "scale": np.array(0.5, dtype=np.float32),
        "zero": np.array(1, dtype=np.int8),
        "places": numbers(3, 0)[:, None],
        "flat": numbers(-1),
        "parts": numbers(5, 7),
    }
    return nodes, constants, {"x": drawn(4, 3), "ids": numbers(4, 2)}


@pytest.mark.parametrize(
    "make",
    [elementwise, quantised, matrix, transform, resized, upsampled, by_durations, scattered],
    ids=lambda one: one.__name__,
)
def test_operators_give_what_onnx_runtime_gives(make: Callable[[], Graphed]) -> None:
    made = make()
    model, outputs = model_of(made)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(outputs, dict(made[2]))
    for wanted, got in zip(expected, Graph(model, outputs)(made[2]), strict=True):
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_an_lstm_differs_by_the_rounding_of_its_state_alone() -> None:
    """ONNX Runtime rounds the state of each step to 8 bits, torch does not."""
    made = lstm()
    model, outputs = model_of(made)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(outputs, dict(made[2]))
    for wanted, got in zip(expected, Graph(model, outputs)(made[2]), strict=True):
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, atol=0.02)


def test_a_graph_that_does_not_round_is_near_one_that_does_and_has_fewer_steps() -> None:
    made = quantised()
    model, outputs = model_of(made)
    rounding, exact = Graph(model, outputs), Graph(model, outputs, rounds=False)
    (rounded,), (plain,) = rounding(made[2]), exact(made[2])
    assert 0 < np.abs(plain - rounded).max() < 0.1
    assert len(exact) < len(rounding)
    weight = (made[1]["w"].astype(np.float64) - 120) * 0.01
    padded = np.pad(made[2]["x"][0].astype(np.float64), ((0, 0), (4, 4)))
    taps = np.stack([padded[:, 2 * tap : 2 * tap + 20] for tap in range(5)], axis=1)
    wanted = np.einsum("abc,bcd->ad", weight, taps) + made[1]["bias"][:, None]
    np.testing.assert_allclose(plain[0], wanted, atol=1e-3)


def test_an_error_names_the_node() -> None:
    nodes, constants, inputs = matrix()
    model, outputs = model_of((nodes, constants, inputs))
    with pytest.raises(RuntimeError) as raised:
        Graph(model, outputs)({"x": drawn(1, 7, 5)})
    assert raised.value.__notes__ == ["in node MatMulInteger y"]
