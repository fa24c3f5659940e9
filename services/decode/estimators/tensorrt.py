"""The estimator as a TensorRT engine, built from the graph of `export`: recompute only, on NVIDIA GPUs.

Experimental: no machine that tests this code has a GPU. The graph is tested in ONNX Runtime and the builder against
the flags of TensorRT 10 and 11, but the code below has not run yet (docs/benchmarks.md), so `auto` does not select it.
Needs the package `tensorrt`, which is imported on use.
"""

from __future__ import annotations

import importlib
import logging
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from services.decode.estimators.export import INPUTS, OUTPUT, export, graph_path, write_whole
from services.decode.flow.estimator import EstimatorNetwork
from services.decode.flow.forward_pass import Pass

log = logging.getLogger(__name__)

FRAMES = ((50, 200, 400), (400, 800, 1600), (1600, 2000, 3000))
"""Smallest, usual and largest length of each optimisation profile, in mel frames: up to 60 s with the prompt."""
WORKSPACE_BYTES = 4 * 2**30


class TensorRtEstimator:
    """Replaces the network that it was built from. Not thread-safe: one engine thread owns it."""

    dtype = torch.float32

    def __init__(self, network: EstimatorNetwork, engine: Path, device: torch.device) -> None:
        """Raises RuntimeError if the engine cannot be loaded: another GPU, another version."""
        trt = _tensorrt()
        self._network, self._device = network, device
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self._engine = self._runtime.deserialize_cuda_engine(engine.read_bytes())
        if self._engine is None:
            raise RuntimeError(f"TensorRT cannot load {engine}; delete it to have it built again")
        self._stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._contexts: dict[int, Any] = {}

    def __call__(self, x: Tensor, time_terms: list[Tensor], frames: Pass) -> Tensor:
        """Like the network's, for passes without a cache; longer passes than the longest profile use the network."""
        if frames.has_cache:
            raise ValueError("TensorRT serves streams without cached states only; set state_bytes to 0")
        rows, count = x.shape[:2]
        profile = next((index for index, (_, _, most) in enumerate(FRAMES) if count <= most), None)
        if profile is None:
            longer: Tensor = self._network(x, time_terms, frames)
            return longer
        # A stream shorter than the smallest profile is padded on the right, which causal layers never read.
        padded = max(count, FRAMES[profile][0])
        mask = x.new_zeros(rows, 1, padded, padded)
        if frames.mask is not None:
            mask[:, :, :count, :count] = frames.mask
        if padded > count:
            mask[:, :, :count, count:] = float("-inf")
            x = torch.nn.functional.pad(x, (0, 0, 0, padded - count))
        terms = torch.stack([term.reshape(-1) for term in time_terms])
        return self._run(profile, (x.contiguous(), terms.contiguous(), mask.contiguous()))[:, :count]

    def _run(self, profile: int, inputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        context = self._context(profile)
        out = torch.empty(*inputs[0].shape[:2], self._network.mel, device=self._device)
        for name, tensor in zip(INPUTS, inputs, strict=True):
            if not context.set_input_shape(name, tuple(tensor.shape)):
                raise RuntimeError(
                    f"the TensorRT engine does not accept {name} {list(tensor.shape)}; build a larger one"
                )
            context.set_tensor_address(name, tensor.data_ptr())
        context.set_tensor_address(OUTPUT, out.data_ptr())
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        if not context.execute_async_v3(self._stream.cuda_stream):
            raise RuntimeError("the TensorRT engine failed; see its log lines")
        current.wait_stream(self._stream)
        for tensor in (*inputs, out):
            tensor.record_stream(self._stream)
        return out

    def _context(self, profile: int) -> Any:
        """Return the execution context of a profile, which is made at first use."""
        if profile not in self._contexts:
            context = self._engine.create_execution_context()
            context.set_optimization_profile_async(profile, self._stream.cuda_stream)
            self._contexts[profile] = context
        return self._contexts[profile]


def tensorrt_estimator(
    network: EstimatorNetwork, cache: Path, device: torch.device, *, precision: str, max_rows: int
) -> TensorRtEstimator:
    """Build the engine (minutes) unless the cache has it. Raises RuntimeError if it cannot be built here."""
    _tensorrt()
    if device.type != "cuda":
        raise RuntimeError(f"TensorRT needs a GPU, and this is {device}")
    graph = graph_path(cache, network)
    engine = engine_path(graph, device, precision=precision, max_rows=max_rows)
    if not engine.exists():
        if not graph.exists():
            export(network.cpu(), graph)
            network.to(device)
        build(graph, engine, network, precision=precision, max_rows=max_rows)
    return TensorRtEstimator(network, engine, device)


def engine_path(graph: Path, device: torch.device, *, precision: str, max_rows: int) -> Path:
    """Path of an engine, which fits one kind of GPU, one version of TensorRT and one set of weights."""
    gpu = torch.cuda.get_device_name(device).replace(" ", "-")
    return graph.with_name(f"{graph.stem}-{gpu}-trt{_tensorrt().__version__}-{precision}-{max_rows}.engine")


def build(graph: Path, engine: Path, network: EstimatorNetwork, *, precision: str, max_rows: int) -> None:
    """Write the engine to `engine` atomically. Raises RuntimeError with TensorRT's message if it cannot be built."""
    trt = _tensorrt()
    began = time.monotonic()
    log.info("building a TensorRT engine, which takes minutes", extra={"path": str(engine)})
    builder = trt.Builder(trt.Logger(trt.Logger.WARNING))
    definition = builder.create_network(0)
    parser = trt.OnnxParser(definition, trt.Logger(trt.Logger.WARNING))
    if not parser.parse(graph.read_bytes()):
        reasons = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise RuntimeError(f"TensorRT cannot read {graph}: {reasons}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    set_precision(trt, config, precision)
    for least, usual, most in FRAMES:
        profile = builder.create_optimization_profile()
        sizes = ((1, least), (max(2, max_rows // 2), usual), (max_rows, most))
        profile.set_shape("x", *((rows, frames, network.inputs) for rows, frames in sizes))
        profile.set_shape("mask", *((rows, 1, frames, frames) for rows, frames in sizes))
        config.add_optimization_profile(profile)
    built = builder.build_serialized_network(definition, config)
    if built is None:
        raise RuntimeError(f"TensorRT could not build an engine from {graph}; see its log lines")
    write_whole(engine, bytes(built))
    log.info("built", extra={"mib": engine.stat().st_size >> 20, "seconds": round(time.monotonic() - began)})


def set_precision(trt: Any, config: Any, precision: str) -> None:
    """Allow `precision` beside float32, and forbid TF32. Raises RuntimeError if this version cannot do so.

    TensorRT 11 has no flags for reduced precision: it builds with the types of the graph, which is float32.
    """
    if precision != "float32":
        flag = getattr(trt.BuilderFlag, {"float16": "FP16", "bfloat16": "BF16"}[precision], None)
        if flag is None:
            raise RuntimeError(f"TensorRT {trt.__version__} cannot build in {precision}; set decode_precision=float32")
        config.set_flag(flag)
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)


def _tensorrt() -> Any:
    try:
        return importlib.import_module("tensorrt")
    except ImportError as error:
        raise RuntimeError("the package tensorrt is not installed") from error
