"""Which backend a worker decodes with: the one asked for, or, with `auto`, the fastest that works here."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import structlog
import torch

from services.common.modeldir import ModelDir
from services.common.server import StartError
from services.decode.backends import AudioFormat, Backend, ClockedBackend, CostModel
from services.decode.flow.model import EstimatorFactory
from services.decode.memory import default_budget
from services.decode.onnx_estimator import onnx_estimator
from services.decode.settings import DecodeSettings
from services.decode.tensorrt_estimator import tensorrt_estimator
from services.decode.torch_backend import Precision, TorchBackend

log = structlog.get_logger(__name__)

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float8": torch.float8_e4m3fn,
}


def load_backend(settings: DecodeSettings, model: ModelDir) -> Backend:
    """A loaded and warmed backend. Raises StartError or ModelDirError."""
    if settings.decode_backend == "clocked":
        return _clocked(settings, model)
    device = usable_device(settings.device)
    backend, factory = settings.decode_backend, estimator_factory(settings, device)
    try:
        return _warm(settings, model, device, factory)
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        if device.type == "cpu" and factory is None:
            raise
        if backend in ("onnx", "tensorrt"):
            raise StartError(f"cannot decode with {backend} ({reason}); set LIGHTTTS_DECODE_BACKEND=auto") from error
        if factory is not None:
            log.warning("tensorrt cannot be used, decoding with PyTorch instead", reason=reason)
            return _warm(settings, model, device, None)
        log.error("GPU FAILED, DECODING ON THE CPU INSTEAD, which is far slower", device=str(device), reason=reason)
        return _warm(settings, model, torch.device("cpu"), None)


def usable_device(name: str) -> torch.device:
    """The device of that name; the CPU, said loudly, when a GPU is absent or cannot be initialised."""
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).splitlines()[0]
        log.error("NO SUCH DEVICE, DECODING ON THE CPU INSTEAD, which is far slower", device=name, reason=reason)
        return torch.device("cpu")
    return torch.device(name)


def estimator_factory(settings: DecodeSettings, device: torch.device) -> EstimatorFactory | None:
    """What replaces PyTorch's estimator; None keeps it.

    `auto` keeps it wherever streams may keep state, since appending beats the fastest recompute; a GPU on which
    `decode_keep_state` is off gets TensorRT.
    """
    if settings.decode_backend == "onnx":
        return partial(onnx_estimator, cache=settings.decode_cache_dir, device=device)
    stateless_gpu = device.type == "cuda" and not settings.decode_keep_state
    if settings.decode_backend == "tensorrt" or (settings.decode_backend == "auto" and stateless_gpu):
        half = settings.decode_precision != "float32"
        rows = 2 * settings.decode_max_batch_size
        return partial(tensorrt_estimator, cache=settings.decode_cache_dir, device=device, half=half, max_rows=rows)
    return None


def _warm(
    settings: DecodeSettings, model: ModelDir, device: torch.device, factory: EstimatorFactory | None
) -> TorchBackend:
    compute = DTYPES[settings.decode_precision] if factory is None else torch.float32
    kept = settings.decode_state_precision
    precision = Precision(compute, compute if kept == "auto" else DTYPES[kept])
    keeps = factory is None and settings.decode_keep_state
    budget = 0
    if keeps:
        budget = settings.decode_state_bytes or default_budget(device, settings.decode_memory_fraction)
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(settings.decode_memory_fraction, device)
    backend = TorchBackend(model, device, precision, budget, factory)
    backend.warm_up()
    return backend


def _clocked(settings: DecodeSettings, model: ModelDir) -> ClockedBackend:
    if settings.decode_cost_file is None:
        raise StartError("the clocked backend needs a cost file; set LIGHTTTS_DECODE_COST_FILE")
    try:
        costs = CostModel.read(settings.decode_cost_file)
    except ValueError as error:
        raise StartError(str(error)) from error
    return ClockedBackend(costs, AudioFormat.of(model), recompute=settings.decode_clocked_recompute)


def prepare(model: ModelDir, settings: DecodeSettings) -> Path:
    """Builds ahead what a worker with these settings would build at its start; returns the cache's folder.

    Raises StartError when it cannot be built here.
    """
    backend = load_backend(settings, model)
    if not isinstance(backend, TorchBackend):
        raise StartError("the clocked backend has nothing to prepare")
    return settings.decode_cache_dir
