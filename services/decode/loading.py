"""Loads a worker's backend: the configured one or, with `auto`, the fastest that works here.

A setting that this machine does not support is replaced by one that it supports; the log gives the reason. This module
needs torch and numpy alone, so that a bare GPU machine can test these decisions. The settings may be any object with
the fields of `DecodeSettings` that are read here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from services.common.checkpoint.flow_config import UNetConfig
from services.common.checkpoint.model_dir import ModelDir, ModelDirError
from services.common.engine.allocator import keep_freed_memory
from services.common.engine.device import first_line, on_device, replaced
from services.common.start_error import StartError
from services.decode.engine.backends import AudioFormat, Backend, CostModel, SimulatedBackend
from services.decode.engine.scheduler import EngineLimits
from services.decode.engine.torch_backend import Precision, TorchBackend
from services.decode.estimators.choice import CAPABILITY, fastest_launch
from services.decode.estimators.compiled import ProgramParts, compile_estimator, use_programs
from services.decode.estimators.cpu_step import JoinedEstimator, use_cpu_step
from services.decode.estimators.fused import fused_network, with_kernels
from services.decode.estimators.tensorrt import tensorrt_estimator
from services.decode.flow.block_attention import PlainAttention
from services.decode.flow.estimator import EstimatorNetwork
from services.decode.flow.model import EstimatorFactory, Flow
from services.decode.flow.programs import CudaGraphs
from services.decode.vocoder.activation import ConvolveJoin
from services.decode.vocoder.choice import fastest_forms
from services.decode.vocoder.programs import use_vocoder_programs

if TYPE_CHECKING:
    from services.decode.settings import DecodeSettings

log = logging.getLogger(__name__)

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float8": torch.float8_e4m3fn,
}
GPU_BATCH, CPU_BATCH = 16, 4
"""Default hops per batch: fewer leave a GPU idle, more gain little on a CPU (docs/benchmarks.md)."""
GPU_STREAMS, CPU_STREAMS = 128, 32
"""Default of the most sessions with open utterances."""
GPU_QUEUE, CPU_QUEUE = 64, 10
"""Default of the most sessions that wait for their first audio: on a GPU four batches of first hops."""
STAND_IN_SHARE = 0.25
"""Share of the memory for states if the CPU replaces a GPU: several workers may have lost their GPUs."""


def load_backend(settings: DecodeSettings, model: ModelDir) -> Backend:
    """Return a loaded and warmed backend. Raises StartError or ModelDirError."""
    if settings.decode_backend == "simulated":
        return _simulated(settings, model)
    backend, device = on_device(
        settings.device,
        lambda device: _load_on(settings, model, device),
        doing="decoding",
        memory_fraction=settings.decode_memory_fraction,
    )
    counts, pool, programs = backend.counts(), backend.flow.pool, backend.flow.programs
    fields = {
        "device": str(device),
        "precision": precision_name(settings, device),
        "estimator": type(backend.flow.solver.estimator).__name__,
        "cuda_graphs": programs is not None,
        "encoder_graphs": programs is not None and bool(programs.fronts),
        "vocoder_graphs": backend.vocoder.programs is not None,
        "attention": "blocks in place" if programs and programs.attention is not PlainAttention else "copied blocks",
        "fused_layers": programs is not None and not isinstance(programs.network, EstimatorNetwork),
        "batch": largest_batch(settings, device),
        "state_gib": round(counts.budget_bytes / 2**30, 2),
        "state_seconds": round(pool.blocks * pool.block_tokens / model.token_rate),
    }
    log.info("decoding", extra=fields)
    log.info("memory for decoding", extra={"device": str(device), **backend.memory.fields(), **_reserved(device)})
    return backend


def _reserved(device: torch.device) -> dict[str, float]:
    """What PyTorch has taken of a GPU, weights and recorded programs included, to compare with the plan."""
    if device.type != "cuda":
        return {}
    return {"reserved_gib": round(torch.cuda.memory_reserved(device) / 2**30, 2)}


def engine_limits(settings: DecodeSettings, backend: Backend) -> EngineLimits:
    """Return the limits of an engine over this backend."""
    computing = backend.device if isinstance(backend, TorchBackend) else None
    admission = settings.decode_admission == "on"
    if settings.decode_admission == "auto":
        admission = computing is None or computing.type != "cpu"
    return EngineLimits(
        max_streams=most_streams(settings, computing),
        max_queue=settings.decode_max_queue or (GPU_QUEUE if on_gpu(computing) else CPU_QUEUE),
        max_batch=largest_batch(settings, computing),
        first_audio_s=settings.first_audio_target_seconds,
        admission=admission,
    )


def most_streams(settings: DecodeSettings, device: torch.device | None) -> int:
    """Largest number of open utterances; no device means the simulated backend."""
    return settings.decode_max_streams or (GPU_STREAMS if on_gpu(device) else CPU_STREAMS)


def on_gpu(device: torch.device | None) -> bool:
    return device is not None and device.type == "cuda"


def largest_batch(settings: DecodeSettings, device: torch.device | None) -> int:
    """Largest number of hops in one batch; no device means the simulated backend, which represents a GPU."""
    if settings.decode_max_batch_size:
        return settings.decode_max_batch_size
    return CPU_BATCH if device is not None and device.type == "cpu" else GPU_BATCH


def most_recorded(settings: DecodeSettings, device: torch.device) -> int:
    """Largest number of streams of the programs that are recorded on that device; 0 if none are."""
    recorded = settings.decode_cuda_graphs and device.type == "cuda"
    return min(largest_batch(settings, device), most_streams(settings, device)) if recorded else 0


def precision_name(settings: DecodeSettings, device: torch.device) -> str:
    """The estimator's precision on that device: a key of `DTYPES`."""
    if settings.decode_precision != "auto":
        return settings.decode_precision
    return "bfloat16" if device.type == "cuda" else "float32"


def estimator_factory(settings: DecodeSettings, device: torch.device) -> EstimatorFactory | None:
    """Return a factory of a replacement of PyTorch's estimator, or None.

    `auto` uses PyTorch: appending to cached states is faster than the fastest recompute, and TensorRT is experimental.
    """
    if settings.decode_backend == "onnx":
        from services.decode.estimators.onnx import onnx_estimator  # needs onnxruntime

        return partial(onnx_estimator, cache=settings.decode_cache_dir, device=device)
    if settings.decode_backend == "tensorrt":
        rows = 2 * largest_batch(settings, device)
        cache, precision = settings.decode_cache_dir, precision_name(settings, device)
        return partial(tensorrt_estimator, cache=cache, device=device, precision=precision, max_rows=rows)
    return None


def _load_on(settings: DecodeSettings, model: ModelDir, device: torch.device) -> TorchBackend:
    """Return a warmed backend on that device, with the configured estimator or, if that one fails, PyTorch's."""
    factory = estimator_factory(settings, device)
    try:
        return _warm(settings, model, device, factory)
    except (StartError, ModelDirError):
        raise  # a mistake in the settings or the checkpoint, which no other estimator corrects
    except Exception as error:  # runtimes and their builders raise errors of their own types
        if factory is None:
            raise
        replaced("decode_backend", "PyTorch's estimator", f"{settings.decode_backend} failed: {first_line(error)}")
    return _warm(settings, model, device, None)


def _warm(
    settings: DecodeSettings, model: ModelDir, device: torch.device, factory: EstimatorFactory | None
) -> TorchBackend:
    compute = DTYPES[precision_name(settings, device)] if factory is None else torch.float32
    kept = settings.decode_state_precision
    precision = Precision(compute, compute if kept == "auto" else DTYPES[kept])
    keeps = factory is None and settings.decode_keep_state
    budget = settings.decode_state_bytes or None if keeps else 0
    if budget and _replaces_gpu(settings, device):
        replaced("decode_state_bytes", "the default of a CPU", "a size for a GPU may exceed this machine's memory")
        budget = None
    recorded = most_recorded(settings, device) if keeps else 0
    backend = TorchBackend(model, device, precision, budget, factory, recorded, memory_share(settings, device))
    if keeps and not backend.flow.pool.blocks:
        needed = f"one second of one stream takes {backend.flow.pool.block_bytes / 2**20:.0f} MiB"
        instead = "every hop computes its stream's whole history"
        replaced("decode_state_bytes", instead, f"{needed}, more than is available")
    if factory is None and _joins_operations(settings, device):
        try:
            use_cpu_step(backend.flow)
        except ValueError as error:
            replaced("decode_cpu_step", "plain layers", error)
    if device.type == "cpu":
        keep_freed_memory()
    backend.warm_up()
    if settings.decode_compile:
        try:
            compile_estimator(backend.flow)
        except Exception as error:  # noqa: BLE001 - compilers raise errors of their own types; plain layers work
            replaced("decode_compile", "plain layers", error)
    if most := most_recorded(settings, device):
        if backend.flow.pool.blocks:
            _record(settings, backend.flow, most, device)
        _record_vocoder(settings, backend, most, device)
        if backend.device.type == "cuda":
            # After an illegal access, a GPU refuses all work of the process, also that of what replaces a kernel.
            torch.cuda.synchronize(backend.device)
    return backend


def _joins_operations(settings: DecodeSettings, device: torch.device) -> bool:
    wanted = device.type == "cpu" and settings.decode_cpu_step == "joined" and not settings.decode_compile
    return wanted and precision_name(settings, device) == "float32"


def _record(settings: DecodeSettings, flow: Flow, most_streams: int, device: torch.device) -> None:
    """Record programs with the kernels that work here; without them if that fails; none if that fails too."""
    parts = program_parts(flow, paged=settings.decode_paged_kernel, fused=settings.decode_fused_kernels)
    for form in launched_fastest(flow, parts, most_streams, device) if parts != ProgramParts() else []:
        try:
            use_programs(flow, most_streams, CudaGraphs(device), form.attention, form.network)
        except Exception as error:  # noqa: BLE001 - drivers and compilers raise errors of their own types
            if form is parts:
                replaced("decode_paged_kernel, decode_fused_kernels", "graphs of plain operations", error)
            else:
                _report_late(error)
        else:
            return
    try:
        use_programs(flow, most_streams, CudaGraphs(device))
    except Exception as error:  # noqa: BLE001 - as above; single kernels work
        replaced("decode_cuda_graphs", "kernels launched one by one", error)


def launched_fastest(flow: Flow, parts: ProgramParts, most_streams: int, device: torch.device) -> list[ProgramParts]:
    """Return `parts` and, before it if that is faster here, the same kernels launched early; see `early_launch`."""
    try:
        if torch.cuda.get_device_capability(device) < CAPABILITY:
            return [parts]
        early, record = launched(parts, early=True), CudaGraphs(device)
        return fastest_launch(flow, parts, early, most_streams, record, lambda name, error: _report_late(error))
    except Exception as error:  # noqa: BLE001 - as above; kernels launched one after the other work
        _report_late(error)
    return [parts]


def _report_late(error: Exception) -> None:
    log.warning("the Euler steps' kernels are launched one after the other", extra={"reason": first_line(error)})


def launched(parts: ProgramParts, *, early: bool) -> ProgramParts:
    """Return the kernels of `parts`, launched early or one after the other."""
    if parts.attention is not PlainAttention:
        from services.decode.estimators.attention_kernel import EARLY_ATTENTION, BlockAttention

        parts = replace(parts, attention=EARLY_ATTENTION if early else BlockAttention)
    if parts.network is not None:
        from services.decode.estimators.layer_kernels import FUSED, FUSED_EARLY

        parts = replace(parts, network=with_kernels(parts.network, FUSED_EARLY if early else FUSED))
    return parts


def _record_vocoder(settings: DecodeSettings, backend: TorchBackend, most_streams: int, device: torch.device) -> None:
    """Record the vocoder's programs with its fastest kernels; without those that fail; none if all fails."""
    parts = (backend.vocoder, most_streams, backend.chunk_frames)
    forms: Mapping[str, ConvolveJoin] = {}
    if settings.decode_fused_kernels:
        try:
            forms = fastest_forms(*parts, CudaGraphs(device), vocoder_forms(), _leave_out)
        except ImportError as error:
            replaced("decode_fused_kernels", "the vocoder's plain layers", f"the triton package is missing ({error})")
    for name, form in forms.items():
        try:
            use_vocoder_programs(*parts, CudaGraphs(device), form)
        except Exception as error:  # noqa: BLE001 - drivers and compilers raise errors of their own types
            _leave_out(name, error)
        else:
            return
    try:
        use_vocoder_programs(*parts, CudaGraphs(device))
    except Exception as error:  # noqa: BLE001 - as above; single kernels work
        replaced("decode_cuda_graphs", "the vocoder's kernels launched one by one", error)


def _leave_out(name: str, error: Exception) -> None:
    replaced("decode_fused_kernels", f"the vocoder without the {name}", error)


def vocoder_forms() -> dict[str, ConvolveJoin]:
    """Return the forms of the vocoder's convolutions that use Triton. Raises ImportError without the triton package."""
    from services.decode.vocoder.activation_kernel import convolve_then_join
    from services.decode.vocoder.convolution_kernel import FusedConvolve

    return {"kernel between convolutions": convolve_then_join, "kernel of convolutions": FusedConvolve()}


def program_parts(flow: Flow, *, paged: bool = True, fused: bool = True) -> ProgramParts:
    """Return the Triton kernels that work here and give the plain mel: for attention, and for the layers.

    The flow is on a GPU, which is the current device. The log has the reason for a group of kernels that is left out.
    """
    parts = ProgramParts()
    if paged:
        parts = _tried(flow, parts, _with_block_attention, "decode_paged_kernel", "copied K/V blocks")
    if fused:
        parts = _tried(flow, parts, _with_fused_layers, "decode_fused_kernels", "plain layers")
    return parts


def _tried(
    flow: Flow, parts: ProgramParts, add: Callable[[Flow, ProgramParts], ProgramParts], setting: str, instead: str
) -> ProgramParts:
    """Return `parts` with those that `add` adds or, if these fail in a short stream, unchanged with a logged reason."""
    try:
        candidate = add(flow, parts)
        use_programs(flow, 1, None, candidate.attention, candidate.network)
    except ImportError as error:
        replaced(setting, instead, f"the triton package is missing ({error})")
    except Exception as error:  # noqa: BLE001 - compilers raise many kinds of errors; plain operations always work
        replaced(setting, instead, error)
    else:
        return candidate
    finally:
        flow.programs = None
    return parts


def _with_block_attention(flow: Flow, parts: ProgramParts) -> ProgramParts:
    from services.decode.estimators.attention_kernel import BlockAttention, fits

    head_dim = flow.pool.caches["estimator"].layout.head_dim
    if not fits(head_dim):
        raise ValueError(f"it needs heads of 16, 32, 64 ..., not {head_dim}")
    return replace(parts, attention=BlockAttention)


def _with_fused_layers(flow: Flow, parts: ProgramParts) -> ProgramParts:
    from services.decode.estimators.layer_kernels import FUSED, WIDEST_NORM

    config = flow.config.estimator
    if isinstance(config, UNetConfig) and config.channels > WIDEST_NORM:
        raise ValueError(f"they support at most {WIDEST_NORM} channels, not {config.channels}")
    return replace(parts, network=fused_network(flow.solver.estimator, FUSED))


def memory_share(settings: DecodeSettings, device: torch.device) -> float:
    """This process's share of the device's memory. A CPU that replaces a GPU may do so for other workers too."""
    fraction = settings.decode_memory_fraction
    return min(fraction, STAND_IN_SHARE) if _replaces_gpu(settings, device) else fraction


def _replaces_gpu(settings: DecodeSettings, device: torch.device) -> bool:
    return device.type == "cpu" and torch.device(settings.device).type != "cpu"


def _simulated(settings: DecodeSettings, model: ModelDir) -> SimulatedBackend:
    if settings.decode_cost_file is None:
        raise StartError("the simulated backend needs a cost file; set LIGHTTTS_DECODE_COST_FILE")
    try:
        costs = CostModel.read(settings.decode_cost_file)
    except ValueError as error:
        raise StartError(str(error)) from error
    return SimulatedBackend(costs, AudioFormat.of(model), recompute=settings.decode_clocked_recompute)


def prepare(model: ModelDir, settings: DecodeSettings) -> Path:
    """Build ahead what a worker with these settings builds at its start; return the cache's folder.

    Raises StartError if it cannot be built here.
    """
    backend = load_backend(settings, model)
    if not isinstance(backend, TorchBackend):
        raise StartError("the simulated backend has nothing to prepare")
    own = isinstance(backend.flow.solver.estimator, EstimatorNetwork | JoinedEstimator)
    if settings.decode_backend in ("onnx", "tensorrt") and own:
        raise StartError(f"{settings.decode_backend} cannot be used here; the log line above states the reason")
    return settings.decode_cache_dir
