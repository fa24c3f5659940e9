"""The estimator in ONNX Runtime: recompute only (see `export`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from services.decode.estimators.export import INPUTS, OUTPUT, export, graph_path
from services.decode.flow.estimator import EstimatorNetwork
from services.decode.flow.forward_pass import Pass


class OnnxEstimator:
    """Replaces the network that it was exported from. PyTorch computes the time terms, once per step."""

    dtype = torch.float32

    def __init__(self, network: EstimatorNetwork, graph: Path, device: torch.device) -> None:
        """Raises RuntimeError if ONNX Runtime has no provider for the device."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        provider = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
        if provider not in onnxruntime.get_available_providers():
            raise RuntimeError(f"this ONNX Runtime has no {provider}; install onnxruntime-gpu")
        # Its CUDA provider uses TF32 by default; this estimator computes in float32.
        settings = {"device_id": device.index or 0, "use_tf32": 0} if device.type == "cuda" else {}
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=[(provider, settings)])
        self._mel, self._device = network.mel, device

    def __call__(self, x: Tensor, time_terms: list[Tensor], frames: Pass) -> Tensor:
        """Like the network's; refuses a pass with a cache, since the graph has none."""
        if frames.has_cache:
            raise ValueError("ONNX Runtime serves streams without cached states only; set state_bytes to 0")
        rows, count = x.shape[:2]
        mask = x.new_zeros(rows, 1, count, count) if frames.mask is None else frames.mask
        terms = torch.stack([term.reshape(-1) for term in time_terms])
        out = torch.empty(rows, count, self._mel, device=self._device)
        binding = self._session.io_binding()
        tensors = [tensor.contiguous() for tensor in (x, terms, mask)]
        for name, tensor in zip(INPUTS, tensors, strict=True):
            binding.bind_input(name, *self._place(tensor))
        binding.bind_output(OUTPUT, *self._place(out))
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()  # its CUDA stream reads what ours has written
        self._session.run_with_iobinding(binding)
        return out

    def _place(self, tensor: Tensor) -> tuple[str, int, type[np.float32], tuple[int, ...], int]:
        return self._device.type, self._device.index or 0, np.float32, tuple(tensor.shape), tensor.data_ptr()


def onnx_estimator(network: EstimatorNetwork, cache: Path, device: torch.device) -> OnnxEstimator:
    """Export the network unless the cache has its graph. Raises RuntimeError or OSError."""
    path = graph_path(cache, network)
    if not path.exists():
        export(network.cpu(), path)
        network.to(device)
    return OnnxEstimator(network, path, device)
