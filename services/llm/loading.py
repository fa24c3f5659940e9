"""From settings to a running engine: checkpoints, precision, kernels.

A setting that cannot be followed on this machine is replaced by what can, and the log says why.
"""

from __future__ import annotations

import math
import queue
from collections.abc import Mapping
from pathlib import Path

import structlog
import torch

from services.common.modeldir import ModelDir
from services.common.server import StartError
from services.llm import metrics
from services.llm.attention import DecodeAttention, gathered
from services.llm.backends import Backend, ClockedBackend, CostModel
from services.llm.engine import LlmEngine
from services.llm.kv_cache import KVCache, Rows, lay_out
from services.llm.model import SpeechLM, load_speech_lm
from services.llm.scheduler import EngineLimits, earliest_deadline, fifo
from services.llm.sequence import FailedEvent, Request, TokensEvent
from services.llm.settings import LlmSettings
from services.llm.torch_backend import TorchBackend, TorchOptions

log = structlog.get_logger(__name__)

PROGRAM_ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Batch sizes a CUDA graph is recorded for, up to the largest batch."""
GRAPH_STEPS = 8
"""Steps in one go where graphs replay. At 64 rows the host takes 0.9 ms for one step and 0.24 ms for one of eight: a
sequence waits a little longer for its tokens, and the device hardly for the host."""


def load_engine(settings: LlmSettings, model: ModelDir, styles: Mapping[str, Path]) -> LlmEngine:
    """A running engine that speaks with `styles`; in requests to it the first one's name is the empty one.

    Raises StartError for settings that cannot work and ModelDirError for checkpoints that do not fit.
    """
    torch.set_num_threads(settings.torch_threads)
    by_deadline = settings.llm_order == "deadline"
    try:
        limits = EngineLimits(
            max_running=settings.max_running,
            max_waiting=settings.max_waiting,
            total_tokens=settings.total_tokens,
            max_request_tokens=settings.max_request_tokens,
            prefill_tokens=settings.prefill_tokens,
            admission_interval=settings.admission_interval,
            steps_per_turn=settings.steps_per_turn or (GRAPH_STEPS if _graphs(settings) else 1),
            lead_s=settings.pause_lead_seconds if by_deadline else math.inf,
        )
    except ValueError as error:
        raise StartError(f"the engine's limits contradict each other: {error}") from error
    backend = _clocked(settings, model) if settings.llm_backend == "clocked" else _computing(settings, model, styles)
    order = earliest_deadline if by_deadline else fifo
    try:
        return LlmEngine(backend, model, limits, order, on_step=metrics.count_step)
    except (RuntimeError, MemoryError) as error:
        raise StartError(
            f"no room for {settings.total_tokens} tokens of K/V cache ({error}); set LIGHTTTS_TOTAL_TOKENS lower"
        ) from error


def warm_up(engine: LlmEngine, model: ModelDir) -> None:
    """Generates a few tokens, so that SERVING means that the next utterance pays for nothing but itself.

    Raises StartError when the model cannot generate.
    """
    ended: queue.SimpleQueue[TokensEvent | FailedEvent] = queue.SimpleQueue()
    engine.submit(Request(text_ids=(0, 0), max_seconds=4 / model.token_rate), ended.put)
    while True:
        event = ended.get()
        if isinstance(event, FailedEvent):
            raise StartError(f"the model cannot generate: {event.error}")
        if event.last:
            return


def _clocked(settings: LlmSettings, model: ModelDir) -> Backend:
    if settings.llm_cost_file is None:
        raise StartError("the clocked backend needs a cost file; set LIGHTTTS_LLM_COST_FILE")
    try:
        return ClockedBackend(model.llm, CostModel.read(settings.llm_cost_file))
    except ValueError as error:
        raise StartError(str(error)) from error


def _computing(settings: LlmSettings, model: ModelDir, styles: Mapping[str, Path]) -> Backend:
    device = _device(settings.device)
    dtype = _dtype(settings, device)
    int8_weights = settings.llm_int8_weights and device.type == "cpu"
    if settings.llm_int8_weights and not int8_weights:
        _replaced("llm_int8_weights", f"weights in {settings.llm_dtype}", "8-bit products run on a CPU alone")
    models = [load_speech_lm(model, device, dtype, path=path, int8_weights=int8_weights) for path in styles.values()]
    if settings.llm_compile:
        for speech_lm in models:
            _compile(speech_lm)
    on_gpu = device.type == "cuda"
    options = TorchOptions(
        int8_kv=settings.llm_int8_kv,
        attend=_paged_attention(model) if on_gpu and settings.llm_paged_kernel else gathered,
        program_rows=_program_rows(settings) if _graphs(settings) else (),
        program_tokens=settings.max_request_tokens,
    )
    others = dict(list(zip(styles, models, strict=True))[1:])
    return TorchBackend(models[0], styles=others, options=options)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise StartError(f"LIGHTTTS_DEVICE {name!r} cannot be used here: {reason}") from error
    return device


def _dtype(settings: LlmSettings, device: torch.device) -> torch.dtype:
    name = settings.llm_dtype
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" else "float32"
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _graphs(settings: LlmSettings) -> bool:
    return settings.device.startswith("cuda") and settings.llm_cuda_graphs


def _program_rows(settings: LlmSettings) -> tuple[int, ...]:
    return (*(rows for rows in PROGRAM_ROWS if rows < settings.max_running), settings.max_running)


def _paged_attention(model: ModelDir) -> DecodeAttention:
    head_dim = model.llm.head_dim
    if head_dim < 16 or head_dim & (head_dim - 1):
        _replaced("llm_paged_kernel", "copied K/V blocks", f"it needs heads of 16, 32, 64 ..., not {head_dim}")
        return gathered
    try:
        from services.llm.paged_kernel import paged
    except ImportError as error:
        _replaced("llm_paged_kernel", "copied K/V blocks", f"the triton package is missing ({error})")
        return gathered
    return paged


def _compile(model: SpeechLM) -> None:
    """Tries the compiled layers once, and takes them back where the compiler is missing or fails."""
    device = model.speech_embedding.weight.device
    cache = KVCache(model.config, 1, 16, device, model.dtype)
    model.compile_parts()
    try:
        with torch.inference_mode():
            model(lay_out([Rows((0, 0), 0, (0,))], 16, device), cache)
    except Exception as error:  # noqa: BLE001 - compilers fail in ways of their own; plain layers always work
        model.compile_parts(undo=True)
        _replaced("llm_compile", "plain layers", str(error).splitlines()[0])


def _replaced(setting: str, by: str, reason: str) -> None:
    log.warning("a setting cannot be followed here", setting=setting, instead=by, reason=reason)
