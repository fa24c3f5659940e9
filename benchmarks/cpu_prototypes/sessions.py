"""Exports a module as an ONNX graph and opens it in ONNX Runtime on the CPU."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Axes = Mapping[str, dict[int, str]]


class Graph:
    """An exported module. Inputs and outputs are tensors on the CPU, in the order of the module's `forward`."""

    def __init__(
        self, module: nn.Module, inputs: Sequence[Tensor], names: Sequence[str], axes: Axes, opset: int
    ) -> None:
        """`inputs` are examples, `axes` names the dimensions that vary. The graph uses as many threads as torch."""
        self._names = names
        buffer = io.BytesIO()
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter that needs no further package is announced as the older one
            torch.onnx.export(
                module.eval(),
                tuple(inputs),
                cast(str, buffer),  # the exporter accepts a file in place of its name
                dynamo=False,
                opset_version=opset,
                input_names=list(names),
                dynamic_axes=dict(axes),
            )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
        # Threads that wait for work must not take a core from PyTorch.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(buffer.getvalue(), options, providers=["CPUExecutionProvider"])

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        feed: dict[str, NDArray[Any]] = {
            name: np.ascontiguousarray(tensor.numpy()) for name, tensor in zip(self._names, inputs, strict=True)
        }
        return [torch.from_numpy(output) for output in self._session.run(None, feed)]
