"""Makes a running engine from settings: checkpoints, precision, kernels.

A setting that this machine does not support is replaced by one that it supports; the log gives the reason. This module
needs torch and numpy alone, so that a bare GPU machine can test these decisions. The settings may be any object with
the fields of `LlmSettings` that are read here.
"""

from __future__ import annotations

import logging
import math
import queue
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from services.common.checkpoint.model_dir import LlmConfig, ModelDir
from services.common.engine.device import on_device, replaced
from services.common.engine.memory import check_room, free_memory, host_memory
from services.common.engine.shell import FailedEvent
from services.common.start_error import StartError
from services.llm.engine.backends import Backend, CostModel, SimulatedBackend
from services.llm.engine.engine import LlmEngine, OnStep
from services.llm.engine.scheduler import EngineLimits, earliest_deadline, fifo
from services.llm.engine.sequence import Request, TokensEvent
from services.llm.model.kernels import PLAIN, StepKernels
from services.llm.model.model import SpeechLM, load_speech_lm
from services.llm.model.torch_backend import TorchBackend, TorchOptions
from services.llm.model.trials import drawn_ids, hidden_states

if TYPE_CHECKING:
    from services.llm.settings import LlmSettings

log = logging.getLogger(__name__)

PROGRAM_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Batch sizes for which CUDA graphs are recorded, up to the largest batch."""
PREFILL_SIZES = (64, 128, 256, 512)
"""Numbers of prompt inputs for which CUDA graphs are recorded, up to `prefill_tokens`."""
GRAPH_STEPS = 8
"""Steps per run of CUDA graphs. At 64 sequences the host takes 0.9 ms for a single step and 0.24 ms per step for eight
in one run: sequences get their tokens a little later, and the device hardly waits for the host."""
CPU_RUNNING, GPU_RUNNING = 32, 256
"""Default of the most utterances at once. A GPU's step for 256 takes three to four times as long as one for one."""
LEAST_TOKENS = 32768
"""Default size of the K/V cache on a CPU, and the smallest one on a GPU."""
TOKENS_PER_UTTERANCE, CACHE_SHARE = 1024, 0.25
"""Defaults of a GPU's cache: tokens for each utterance, but at most this share of the free memory."""
WORKSPACE_BYTES = 64 * 2**20
"""Workspaces of cuBLAS on a GPU: 32 MiB for each of two CUDA streams on Hopper."""
FREE_LIST_BYTES = 40
"""Memory of the host for each block of the K/V cache: its place in the list of free blocks."""
TRIAL_DIFFERENCE = 0.05
"""Largest mean difference of hidden states, whose deviation is about 1: rounding stays below it, a mistake does not."""
TRIAL_AGREEMENT = 0.95
"""Smallest share of equal sampled ids: rounding can change the rare id that wins by a hair, a mistake changes most."""


def load_engine(
    settings: LlmSettings, model: ModelDir, styles: Mapping[str, Path], on_step: OnStep | None = None
) -> LlmEngine:
    """Return a running engine for `styles`; requests name the first style by the empty string.

    The engine thread calls `on_step` after each step. Raises StartError for settings that cannot work and ModelDirError
    for checkpoints that do not fit.
    """
    torch.set_num_threads(settings.torch_threads)
    limits = engine_limits(settings)
    if settings.llm_backend == "simulated":
        backend = _simulated(settings, model)
    else:
        backend, device = on_device(
            settings.device,
            lambda device: _torch_backend(settings, model, styles, device),
            doing="generating",
            memory_fraction=settings.llm_memory_fraction,
        )
        if _uses_graphs(settings, device) and not settings.steps_per_turn:
            limits = replace(limits, steps_per_turn=GRAPH_STEPS)
        if isinstance(backend, TorchBackend) and device.type == "cuda":
            limits = _for_gpu(settings, limits, backend)
    order = earliest_deadline if settings.llm_order == "deadline" else fifo
    _check_room(settings, limits, backend)
    try:
        return LlmEngine(backend, model, limits, order, on_step=on_step)
    except (RuntimeError, MemoryError) as error:
        raise StartError(
            f"no room for {limits.total_tokens} tokens of K/V cache ({error}); set LIGHTTTS_TOTAL_TOKENS lower"
        ) from error


def engine_limits(settings: LlmSettings) -> EngineLimits:
    """Return the engine's limits, with a CPU's defaults. Raises StartError for settings that contradict each other."""
    try:
        return EngineLimits(
            max_running=settings.max_running or CPU_RUNNING,
            max_waiting=settings.max_waiting,
            total_tokens=settings.total_tokens or LEAST_TOKENS,
            max_request_tokens=settings.max_request_tokens,
            prefill_tokens=settings.prefill_tokens,
            admission_interval=settings.admission_interval,
            steps_per_turn=settings.steps_per_turn or 1,
            lead_s=settings.pause_lead_seconds if settings.llm_order == "deadline" else math.inf,
        )
    except ValueError as error:
        raise StartError(f"the engine's limits contradict each other: {error}") from error


def most_running(settings: LlmSettings, device: torch.device, kernels: StepKernels) -> int:
    """Largest number of utterances at once.

    Without a kernel that reads K/V blocks in place, a step copies the blocks of its batch: the default stays small.
    """
    in_place = kernels.attend is not PLAIN.attend
    return settings.max_running or (GPU_RUNNING if device.type == "cuda" and in_place else CPU_RUNNING)


def default_tokens(running: int, free: int, token_bytes: float) -> int:
    """Default size of a GPU's K/V cache in tokens; `free` and `token_bytes` are bytes of memory and of a token."""
    return max(LEAST_TOKENS, min(TOKENS_PER_UTTERANCE * running, int(CACHE_SHARE * free / token_bytes)))


def _for_gpu(settings: LlmSettings, limits: EngineLimits, backend: TorchBackend) -> EngineLimits:
    """Fill in the limits that the settings leave to the GPU."""
    running = most_running(settings, backend.device, backend.kernels)
    free = free_memory(backend.device, settings.llm_memory_fraction)
    token_bytes = backend.kv_bytes(limits.num_blocks, limits.block_size) / limits.total_tokens
    tokens = settings.total_tokens or default_tokens(running, free, token_bytes)
    log.info("sizes for generating", extra={"max_running": running, "total_tokens": tokens})
    return replace(limits, max_running=running, total_tokens=tokens)


def _check_room(settings: LlmSettings, limits: EngineLimits, backend: Backend) -> None:
    """Raise StartError if the K/V cache, the list of its free blocks or copies of weights do not fit in memory."""
    what = f"{limits.total_tokens} tokens of K/V cache"
    on_host = limits.num_blocks * FREE_LIST_BYTES
    if isinstance(backend, TorchBackend):
        size = backend.kv_bytes(limits.num_blocks, limits.block_size)
        free = free_memory(backend.device, settings.llm_memory_fraction)
        log.info("memory for generating", extra=_memory_fields(backend, limits, free, size))
        if backend.device.type == "cuda":
            check_room(what, size, free, setting="total_tokens", where=str(backend.device))
        else:
            on_host += size + backend.graph_bytes()
    check_room(what, on_host, host_memory().free, setting="total_tokens", where="this machine or container")


def _memory_fields(backend: TorchBackend, limits: EngineLimits, free: int, kv: int) -> dict[str, float | str]:
    """The parts of the device's free memory after the weights are loaded, in GiB, for the log."""
    programs, read = backend.program_bytes(limits.num_blocks, limits.block_size)
    workspace = WORKSPACE_BYTES if backend.device.type == "cuda" else 0
    parts = {"free": free, "blocks": kv, "programs": programs, "copied_blocks": read, "workspace": workspace}
    parts["rest"] = 2 * free - sum(parts.values())
    return {"device": str(backend.device), **{f"{name}_gib": round(size / 2**30, 2) for name, size in parts.items()}}


def warm_up(engine: LlmEngine, model: ModelDir) -> None:
    """Generate a few tokens, so that the first utterance does not wait for one-time work.

    Raises StartError if the model cannot generate.
    """
    ended: queue.SimpleQueue[TokensEvent | FailedEvent] = queue.SimpleQueue()
    engine.submit(Request(text_ids=(0, 0), max_seconds=4 / model.token_rate), ended.put)
    while True:
        event = ended.get()
        if isinstance(event, FailedEvent):
            raise StartError(f"the model cannot generate: {event.error}")
        if event.last:
            return


def _simulated(settings: LlmSettings, model: ModelDir) -> Backend:
    if settings.llm_cost_file is None:
        raise StartError("the simulated backend needs a cost file; set LIGHTTTS_LLM_COST_FILE")
    try:
        return SimulatedBackend(model.llm, CostModel.read(settings.llm_cost_file))
    except ValueError as error:
        raise StartError(str(error)) from error


def _torch_backend(settings: LlmSettings, model: ModelDir, styles: Mapping[str, Path], device: torch.device) -> Backend:
    dtype = _dtype(settings, device)
    on_gpu = device.type == "cuda"
    int8_weights = settings.llm_int8_weights and not on_gpu
    if settings.llm_int8_weights and on_gpu:
        replaced("llm_int8_weights", f"weights in {_name(dtype)}", "8-bit products run on a CPU only")
    models = [load_speech_lm(model, device, dtype, path=path, int8_weights=int8_weights) for path in styles.values()]
    kernels = PLAIN
    if on_gpu:
        kernels = fused_kernels(
            models[0], paged=settings.llm_paged_kernel, fused=settings.llm_fused_kernels, int8_kv=settings.llm_int8_kv
        )
    if settings.llm_compile:
        _compile(models, kernels)
    graphs = _uses_graphs(settings, device)
    # Without its kernel, a prompt's program would copy all blocks of a request once per tile.
    prompt_graphs = graphs and kernels.attend_tiles is not PLAIN.attend_tiles
    options = TorchOptions(
        int8_kv=settings.llm_int8_kv,
        kernels=kernels,
        program_sizes=_program_sizes(most_running(settings, device, kernels)) if graphs else (),
        program_tokens=settings.max_request_tokens,
        prefill_sizes=_prefill_sizes(settings) if prompt_graphs else (),
        cpu_graph=_uses_cpu_graph(settings, device, dtype),
        alignment=model.card.alignment if settings.llm_word_times else (),
    )
    others = dict(list(zip(styles, models, strict=True))[1:])
    backend = TorchBackend(models[0], styles=others, options=options)
    fields = {
        "device": str(device),
        "dtype": _name(dtype),
        "int8_weights": int8_weights,
        "int8_kv": settings.llm_int8_kv,
        "cuda_graphs": bool(options.program_sizes),
        "cpu_graph": options.cpu_graph,
        "word_times": backend.aligns,
        "attention": "copied blocks" if kernels.attend is PLAIN.attend else "paged kernel",
        "fused_layers": kernels.add_norm is not PLAIN.add_norm,
        "fused_sampling": kernels.sample is not PLAIN.sample,
    }
    log.info("generating", extra=fields)
    return backend


def _dtype(settings: LlmSettings, device: torch.device) -> torch.dtype:
    name = settings.llm_dtype
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" else "float32"
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _uses_graphs(settings: LlmSettings, device: torch.device) -> bool:
    return device.type == "cuda" and settings.llm_cuda_graphs


def _uses_cpu_graph(settings: LlmSettings, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether decode steps run as one graph. With torch.compile, the operator has chosen another way."""
    others = settings.llm_int8_weights or settings.llm_compile
    return settings.llm_cpu_graph and device.type == "cpu" and dtype == torch.float32 and not others


def _program_sizes(largest: int) -> tuple[int, ...]:
    return (*(size for size in PROGRAM_SIZES if size < largest), largest)


def _prefill_sizes(settings: LlmSettings) -> tuple[int, ...]:
    largest = next((size for size in PREFILL_SIZES if size >= settings.prefill_tokens), PREFILL_SIZES[-1])
    return tuple(size for size in PREFILL_SIZES if size <= largest)


def fused_kernels(model: SpeechLM, *, paged: bool = True, fused: bool = True, int8_kv: bool = False) -> StepKernels:
    """Return the Triton kernels that work here and agree with the plain ones: for attention, and for all else.

    The model is on a GPU, which is the current device. The log has the reason for a group of kernels that is left out.
    """
    config, kernels = model.config, PLAIN

    def fault_of_layers(candidate: StepKernels) -> str:
        plain, fused = (hidden_states(model, each, int8_kv=int8_kv) for each in (PLAIN, candidate))
        difference = float((fused - plain).abs().mean())
        agrees = difference <= TRIAL_DIFFERENCE  # false for NaN
        return "" if agrees else f"its hidden states differ from the plain ones by {difference:.2g}"

    def fault_of_sampling(candidate: StepKernels) -> str:
        vocabulary, device = model.llm_decoder.out_features, model.speech_embedding.weight.device
        plain, fused = (drawn_ids(each, vocabulary, device) for each in (PLAIN, candidate))
        share = float((fused == plain).all(dim=1).float().mean())
        return "" if share >= TRIAL_AGREEMENT else f"only {share:.0%} of its ids are those of plain sampling"

    if paged and _heads_fit(config, 16, "llm_paged_kernel", "copied K/V blocks"):
        kernels = _tried("llm_paged_kernel", "copied K/V blocks", kernels, _attention_kernels, fault_of_layers)
    if fused and _heads_fit(config, 2, "llm_fused_kernels", "plain layers"):
        kernels = _tried("llm_fused_kernels", "plain layers", kernels, _layer_kernels, fault_of_layers)
        kernels = _tried("llm_fused_kernels", "plain sampling", kernels, _sampling_kernels, fault_of_sampling)
    return kernels


def _heads_fit(config: LlmConfig, least: int, setting: str, instead: str) -> bool:
    """Whether kernels for heads of a power of two, at least `least`, fit the model; log it if they do not."""
    fits = config.head_dim >= least and config.head_dim & (config.head_dim - 1) == 0
    if not fits:
        replaced(setting, instead, f"it needs heads of {least}, {2 * least}, {4 * least} ..., not {config.head_dim}")
    return fits


def _tried(
    setting: str,
    instead: str,
    kernels: StepKernels,
    find: Callable[[], Mapping[str, Any]],
    fault_of: Callable[[StepKernels], str],
) -> StepKernels:
    """Return `kernels` with the parts that `find` returns, or unchanged, with a reason in the log, if these fail."""
    try:
        candidate = replace(kernels, **find())
        reason: object = fault_of(candidate)
    except ImportError as error:
        reason = f"the triton package is missing ({error})"
    except Exception as error:  # noqa: BLE001 - compilers raise many kinds of errors; plain kernels always work
        reason = error if str(error) else type(error).__name__
    if not reason:
        return candidate
    replaced(setting, instead, reason)
    return kernels


def _attention_kernels() -> Mapping[str, Any]:
    from services.llm.model.paged_kernel import ATTENTION

    return ATTENTION


def _layer_kernels() -> Mapping[str, Any]:
    from services.llm.model.layer_kernels import LAYERS

    return LAYERS


def _sampling_kernels() -> Mapping[str, Any]:
    from services.llm.model.sampling_kernels import SAMPLING

    return SAMPLING


def _compile(models: Sequence[SpeechLM], kernels: StepKernels) -> None:
    """Compile the layers and try them once; use the plain layers if the compiler is missing or fails."""
    if kernels.add_norm is not PLAIN.add_norm:
        reason = "fused kernels replace the same operations; set LIGHTTTS_LLM_FUSED_KERNELS=false to compile"
        replaced("llm_compile", "fused kernels", reason)
        return
    for model in models:
        model.compile_parts()
        try:
            hidden_states(model, kernels)
        except Exception as error:  # noqa: BLE001 - compilers raise many kinds of errors; plain layers always work
            model.compile_parts(undo=True)
            replaced("llm_compile", "plain layers", error)
