"""The division of memory at the start: what is computed from shapes is what the tensors take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from services.common.checkpoint.model_dir import AlignmentHead, ModelDir
from services.llm import loading
from services.llm.alignment.aligner import Aligner
from services.llm.engine.scheduler import EngineLimits
from services.llm.loading import default_tokens, load_engine, most_running
from services.llm.model.decode_program import DecodeProgram
from services.llm.model.kernels import PLAIN, StepKernels
from services.llm.model.kv_cache import KVCache, kv_cache_bytes, read_buffer_bytes
from services.llm.model.model import SpeechLM
from services.llm.model.prefill_program import TILE, PrefillProgram
from services.llm.model.torch_backend import BAN_KINDS, TorchBackend, TorchOptions
from services.llm.settings import LlmSettings
from services.llm.styles import read_styles
from tests.support.logs import capture_logs

BLOCKS, BLOCK_SIZE, WIDTH = 12, 16, 10
HEADS = (AlignmentHead(layer=0, head=0, score=0.9), AlignmentHead(layer=1, head=1, score=0.8))


def make_cache(model: SpeechLM, *, quantized: bool = False) -> KVCache:
    device = torch.device("cpu")
    return KVCache(model.config, BLOCKS + 1, BLOCK_SIZE, device, model.dtype, quantized=quantized)


@pytest.mark.parametrize("heads", [(), HEADS])
def test_programs_own_the_computed_bytes(mini_model: SpeechLM, heads: tuple[AlignmentHead, ...]) -> None:
    aligner = Aligner(heads, mini_model.config)
    bans = torch.zeros(BAN_KINDS, mini_model.speech_embedding.num_embeddings, dtype=torch.bool)
    shared = (WIDTH, PLAIN, aligner)
    for size in (1, 5):
        decode = DecodeProgram(mini_model, make_cache(mini_model), bans, size, *shared)
        assert decode.nbytes == DecodeProgram.device_bytes(size, WIDTH, aligner.width)
        prefill = PrefillProgram(mini_model, make_cache(mini_model), bans, TILE * size, *shared)
        assert prefill.nbytes == PrefillProgram.device_bytes(size, WIDTH, aligner.width)


@torch.inference_mode()
@pytest.mark.parametrize("quantized", [False, True])
def test_copied_blocks_take_the_computed_bytes(mini_model: SpeechLM, quantized: bool) -> None:
    cache = make_cache(mini_model, quantized=quantized)
    stored = (cache.keys, cache.values, cache.key_scales, cache.value_scales)
    config, options = (
        mini_model.config,
        TorchOptions(int8_kv=quantized, program_sizes=(1, 3), prefill_sizes=(64,), program_tokens=WIDTH * BLOCK_SIZE),
    )
    backend = TorchBackend(mini_model, options=options)
    assert sum(one.nbytes for one in stored) == backend.kv_bytes(BLOCKS, BLOCK_SIZE)
    assert backend.kv_bytes(BLOCKS, BLOCK_SIZE) == kv_cache_bytes(
        config, BLOCKS + 1, BLOCK_SIZE, mini_model.dtype, quantized
    )
    bans = torch.zeros(BAN_KINDS, mini_model.speech_embedding.num_embeddings, dtype=torch.bool)
    DecodeProgram(mini_model, cache, bans, 3, WIDTH, PLAIN).replay()
    own, read = backend.program_bytes(BLOCKS, BLOCK_SIZE)
    assert cache.read_buffer.nbytes == read
    assert read == read_buffer_bytes(config, 3, WIDTH + 1, BLOCK_SIZE, cache.keys.dtype)
    sizes = [DecodeProgram.device_bytes(size, WIDTH, 0) for size in (1, 3)]
    assert own == sum(sizes) + PrefillProgram.device_bytes(64 // TILE, WIDTH, 0)


def test_the_parts_are_logged(mini_dir: ModelDir) -> None:
    with capture_logs() as logs:
        load_engine(LlmSettings(model_dir=mini_dir.path, total_tokens=4096), mini_dir, read_styles(mini_dir)).close()
    (line,) = [entry for entry in logs if entry["event"] == "memory for generating"]
    assert line["device"] == "cpu"
    parts = [line[f"{name}_gib"] for name in ("blocks", "programs", "copied_blocks", "workspace", "rest")]
    assert line["free_gib"] == pytest.approx(sum(parts), abs=0.05)
    assert line["blocks_gib"] >= 0


@pytest.mark.parametrize(
    ("device", "in_place", "given", "running"),
    [
        ("cuda", True, 0, 256),
        ("cuda", False, 0, 32),
        ("cpu", False, 0, 32),
        ("cuda", True, 40, 40),
        ("cpu", False, 7, 7),
    ],
)
def test_utterances_at_once(mini_dir: ModelDir, device: str, in_place: bool, given: int, running: int) -> None:
    kernels = replace(PLAIN, attend=lambda *arguments: PLAIN.attend(*arguments)) if in_place else PLAIN
    settings = LlmSettings(model_dir=mini_dir.path, max_running=given)
    assert most_running(settings, torch.device(device), kernels) == running


def test_a_gpu_s_cache_grows_with_its_utterances_and_its_memory() -> None:
    plenty, token_bytes = 2**40, 12288.0
    assert default_tokens(256, plenty, token_bytes) == 256 * 1024
    assert default_tokens(32, plenty, token_bytes) == 32768
    assert default_tokens(256, 8 * 2**30, token_bytes) == 2 * 2**30 // 12288  # a quarter of 8 GiB
    assert default_tokens(256, 2**20, token_bytes) == 32768  # then the start fails and says what to set


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, (256, 262144)), ({"max_running": 3}, (3, 32768)), ({"max_running": 64, "total_tokens": 4096}, (64, 4096))],
)
def test_an_engine_takes_the_sizes_of_its_gpu(
    mini_dir: ModelDir, monkeypatch: pytest.MonkeyPatch, settings: dict[str, int], expected: tuple[int, int]
) -> None:
    """The tensors are the CPU's."""

    def on_gpu(
        name: str, make: Callable[[torch.device], TorchBackend], **more: Any
    ) -> tuple[TorchBackend, torch.device]:
        return make(torch.device("cpu")), torch.device("cuda")

    def chosen(settings: LlmSettings, device: torch.device, kernels: StepKernels) -> int:
        return settings.max_running or loading.GPU_RUNNING

    monkeypatch.setattr(loading, "on_device", on_gpu)
    monkeypatch.setattr(loading, "most_running", chosen)
    monkeypatch.setattr(loading, "free_memory", lambda device, fraction=1.0: 2**40)
    limits = limits_of(mini_dir, **settings)
    assert (limits.max_running, limits.total_tokens) == expected


def test_a_cpu_s_engine_stays_small(mini_dir: ModelDir) -> None:
    limits = limits_of(mini_dir)
    assert (limits.max_running, limits.total_tokens) == (32, 32768)


def limits_of(directory: ModelDir, **settings: Any) -> EngineLimits:
    engine = load_engine(LlmSettings(model_dir=directory.path, **settings), directory, read_styles(directory))
    engine.close()
    return engine.limits
