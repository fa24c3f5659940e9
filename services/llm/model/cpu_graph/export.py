"""Writes the decode step of a `SpeechLM` as an ONNX graph: one token per sequence, with attention over the paged cache.

Inputs, for N sequences of at most W blocks each:
    x [N, hidden]: the embedded tokens;
    cos, sin [N, 1, head_dim / 2]: the rotary table of their positions;
    rows [N, kv_heads, W] int64: rows of the cache, block * kv_heads + head;
    mask [N, 1, 1, W * block_size]: 0 for the positions before the token, negative infinity for the others;
    split [2] int64: W * block_size and 1;
    keys_0, values_0, …: the cache of each layer [blocks * kv_heads, block_size, head_dim], with their scales
    [blocks * kv_heads, block_size, 1] if it is quantised.
Outputs: `hidden` [N, hidden] after the final norm; `new` [2 * layers, N, kv_heads, head_dim], the tokens' keys and
values: layer 0's keys, layer 0's values, and so on, which the caller writes into the cache; and, if heads are tapped,
`queries` [N, groups * head_dim], as `QueryTap.summed` returns them.

The operations are those of `services.llm.model.model` with `kernels.PLAIN`, so results differ by rounding only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor, nn

from services.llm.alignment.queries import HeadGroup
from services.llm.model.model import DecoderLayer, SpeechLM

OPSET, IR_VERSION = 20, 10
SHARED_BYTES = 1024
"""Arrays from this size on are not copied into the graph: a graph of more than 2 GB could not be serialised."""


class _Graph:
    """A graph that grows by one operation per call."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.shared: dict[str, NDArray[Any]] = {}

    def add(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        """Append an operation; return the names of its outputs."""
        names = [f"{len(self.nodes)}.{number}" for number in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names

    def one(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append an operation with one output; return its name."""
        return self.add(kind, *inputs, **attributes)[0]

    def constant(self, name: str, values: NDArray[Any]) -> str:
        tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(values.dtype), dims=values.shape)
        if values.nbytes < SHARED_BYTES:
            tensor.raw_data = values.tobytes()
        else:
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", "memory"), ("offset", "0"), ("length", str(values.nbytes))):
                tensor.external_data.add(key=key, value=value)
            self.shared[name] = values
        self.constants.append(tensor)
        return name

    def weight(self, name: str, values: Tensor) -> str:
        return self.constant(name, values.detach().contiguous().numpy())

    def integers(self, *values: int) -> str:
        """A list of integers, such as a shape; the same constant for the same values."""
        name = "integers " + " ".join(map(str, values))
        if any(tensor.name == name for tensor in self.constants):
            return name
        return self.constant(name, np.array(values, np.int64))

    def number(self, value: float) -> str:
        name = f"number {value!r}"
        if any(tensor.name == name for tensor in self.constants):
            return name
        return self.constant(name, np.array(value, np.float32))


class StepExport:
    """The graph of one model. Raises TypeError for layers whose weights are not float32."""

    def __init__(self, model: SpeechLM, groups: Sequence[HeadGroup] = (), *, quantized: bool) -> None:
        """`groups`: the heads whose queries the graph returns; `quantized`: whether the cache holds 8-bit integers."""
        self._model, self._config, self._quantized = model, model.config, quantized
        self._groups, self._tapped = groups, list[str]()
        self._graph = _Graph()
        self.graph = self._build()

    @property
    def shared(self) -> dict[str, NDArray[Any]]:
        """The weights by name; they are in the model's memory and must be given to the session."""
        return self._graph.shared

    def _build(self) -> bytes:
        config, graph = self._config, self._graph
        x, new = "x", []
        for index, layer in enumerate(self._model.layers):
            x, keys, values = self._layer(index, layer, x)
            new += [graph.one("Unsqueeze", each, graph.integers(0)) for each in (keys, values)]
        final = self._model.llm.model.model.norm
        graph.nodes.append(self._norm_node("norm", x, final, "hidden"))
        graph.nodes.append(helper.make_node("Concat", new, ["new"], axis=0))
        shape: list[int | str] = [2 * config.num_layers, "N", config.num_kv_heads, config.head_dim]
        outputs = [_float("hidden", ["N", config.hidden_size]), _float("new", shape)]
        if self._tapped:
            graph.nodes.append(helper.make_node("Concat", self._tapped, ["queries"], axis=1))
            outputs.append(_float("queries", ["N", len(self._tapped) * config.head_dim]))
        whole = helper.make_graph(graph.nodes, "decode step", self._inputs(), outputs, graph.constants)
        opset = helper.make_opsetid("", OPSET)
        exported: bytes = helper.make_model(whole, opset_imports=[opset], ir_version=IR_VERSION).SerializeToString()
        return exported

    def _inputs(self) -> list[onnx.ValueInfoProto]:
        config = self._config
        half = config.head_dim // 2
        inputs = [
            _float("x", ["N", config.hidden_size]),
            _float("cos", ["N", 1, half]),
            _float("sin", ["N", 1, half]),
            helper.make_tensor_value_info("rows", TensorProto.INT64, ["N", config.num_kv_heads, "W"]),
            _float("mask", ["N", 1, 1, "T"]),
            helper.make_tensor_value_info("split", TensorProto.INT64, [2]),
        ]
        stored = TensorProto.INT8 if self._quantized else TensorProto.FLOAT
        for layer in range(config.num_layers):
            for side in ("keys", "values"):
                shape: list[int | str] = ["R", "B", config.head_dim]
                inputs.append(helper.make_tensor_value_info(f"{side}_{layer}", stored, shape))
                if self._quantized:
                    inputs.append(_float(f"{side}_scales_{layer}", ["R", "B", 1]))
        return inputs

    def _layer(self, index: int, layer: DecoderLayer, x: str) -> tuple[str, str, str]:
        """Return the residual stream after the layer, and the token's keys and values [N, kv_heads, head_dim]."""
        graph, config, attention, mlp = self._graph, self._config, layer.self_attn, layer.mlp
        normed = self._norm(f"input norm {index}", x, layer.input_layernorm)
        query, keys, values = self._heads(self._linear(f"qkv {index}", normed, attention.qkv_proj))
        self._tap(index, query)
        attended = self._attend(index, query, keys, values)
        attended = graph.one("Reshape", attended, graph.integers(-1, config.num_heads * config.head_dim))
        x = graph.one("Add", x, self._linear(f"o {index}", attended, attention.o_proj))
        normed = self._norm(f"norm {index}", x, layer.post_attention_layernorm)
        both = self._linear(f"gate up {index}", normed, mlp.gate_up_proj)
        gate, up = graph.add("Split", both, outputs=2, axis=1, num_outputs=2)
        gated = graph.one("Mul", graph.one("Mul", gate, graph.one("Sigmoid", gate)), up)
        return graph.one("Add", x, self._linear(f"down {index}", gated, mlp.down_proj)), keys, values

    def _heads(self, qkv: str) -> tuple[str, str, str]:
        """Return rotated queries [N, heads, head_dim], rotated keys and values [N, kv_heads, head_dim]."""
        graph, config = self._graph, self._config
        heads, kv_heads, half = config.num_heads, config.num_kv_heads, config.head_dim // 2
        states = graph.one("Reshape", qkv, graph.integers(-1, heads + 2 * kv_heads, 2 * half))
        turned, values = graph.add("Split", states, graph.integers(heads + kv_heads, kv_heads), outputs=2, axis=1)
        low, high = graph.add("Split", turned, graph.integers(half, half), outputs=2, axis=2)
        rotated = graph.one(
            "Concat",
            graph.one("Sub", graph.one("Mul", low, "cos"), graph.one("Mul", high, "sin")),
            graph.one("Add", graph.one("Mul", high, "cos"), graph.one("Mul", low, "sin")),
            axis=2,
        )
        query, keys = graph.add("Split", rotated, graph.integers(heads, kv_heads), outputs=2, axis=1)
        return query, keys, values

    def _tap(self, layer: int, query: str) -> None:
        """Keep the sums of the queries that are asked for."""
        graph, size = self._graph, self._config.num_heads // self._config.num_kv_heads
        for group in self._groups:
            if group.layer == layer:
                heads = graph.integers(*(group.kv_head * size + member for member in group.members))
                members = graph.one("Gather", query, heads, axis=1)
                self._tapped.append(graph.one("ReduceSum", members, graph.integers(1), keepdims=0))

    def _attend(self, index: int, query: str, keys: str, values: str) -> str:
        """Return [N, kv_heads, group, head_dim]: attention over the cache and the token itself."""
        graph, config = self._graph, self._config
        kv_heads, head_dim = config.num_kv_heads, config.head_dim
        grouped = graph.integers(-1, kv_heads, config.num_heads // kv_heads, head_dim)
        query = graph.one("Mul", graph.one("Reshape", query, grouped), graph.number(head_dim**-0.5))
        single = graph.integers(-1, kv_heads, 1, head_dim)
        own_keys, own_values = (graph.one("Reshape", self._as_stored(each), single) for each in (keys, values))
        past_keys, past_values = (self._past(side, index) for side in ("keys", "values"))
        scores = graph.one("MatMul", query, graph.one("Transpose", past_keys, perm=[0, 1, 3, 2]))
        own = graph.one("ReduceSum", graph.one("Mul", query, own_keys), graph.integers(3), keepdims=1)
        scores = graph.one("Concat", graph.one("Add", scores, "mask"), own, axis=3)
        past, own = graph.add("Split", graph.one("Softmax", scores, axis=3), "split", outputs=2, axis=3)
        return graph.one("Add", graph.one("MatMul", past, past_values), graph.one("Mul", own, own_values))

    def _past(self, side: str, index: int) -> str:
        """Return the keys or values [N, kv_heads, W * block_size, head_dim] of the sequences' blocks."""
        graph = self._graph
        stored = graph.one("Gather", f"{side}_{index}", "rows", axis=0)
        if self._quantized:
            scales = graph.one("Gather", f"{side}_scales_{index}", "rows", axis=0)
            stored = graph.one("Mul", graph.one("Cast", stored, to=TensorProto.FLOAT), scales)
        return graph.one("Reshape", stored, graph.integers(0, 0, -1, self._config.head_dim))

    def _as_stored(self, states: str) -> str:
        """Return keys or values with the rounding that the cache gives them; see `services.llm.model.int8.quantize`."""
        if not self._quantized:
            return states
        graph = self._graph
        largest = graph.one("ReduceMax", graph.one("Abs", states), graph.integers(2), keepdims=1)
        scale = graph.one("Div", graph.one("Max", largest, graph.number(1e-12)), graph.number(127.0))
        return graph.one("Mul", graph.one("Round", graph.one("Div", states, scale)), scale)

    def _linear(self, name: str, x: str, layer: nn.Module) -> str:
        if not isinstance(layer, nn.Linear) or not layer.weight.is_floating_point() or layer.weight.element_size() != 4:
            raise TypeError("the graph needs layers in float32")
        weights = [self._graph.weight(f"{name} weight", layer.weight)]
        if layer.bias is not None:
            weights.append(self._graph.weight(f"{name} bias", layer.bias))
        return self._graph.one("Gemm", x, *weights, transB=1)

    def _norm(self, name: str, x: str, norm: nn.RMSNorm) -> str:
        output = f"{name} output"
        self._graph.nodes.append(self._norm_node(name, x, norm, output))
        return output

    def _norm_node(self, name: str, x: str, norm: nn.RMSNorm, output: str) -> onnx.NodeProto:
        weight = self._graph.weight(f"{name} weight", norm.weight)
        return helper.make_node("SimplifiedLayerNormalization", [x, weight], [output], epsilon=norm.eps, axis=-1)


def _float(name: str, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
