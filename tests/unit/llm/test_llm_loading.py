"""The engine that settings select, and the requests that start messages become."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from lighttts.v1 import llm_pb2
from services.common.checkpoint.model_dir import ModelDir, ModelDirError, open_model_dir
from services.common.families import COSYVOICE3
from services.common.voices.voice import Voice
from services.llm import loading
from services.llm.engine.layout import Prompt
from services.llm.loading import load_engine
from services.llm.model import torch_backend
from services.llm.model.decode_program import DecodeProgram
from services.llm.model.kernels import PLAIN, gathered_tiles
from services.llm.model.kv_cache import KVCache
from services.llm.model.model import SpeechLM, load_speech_lm
from services.llm.model.prefill_program import PrefillProgram
from services.llm.model.torch_backend import TorchBackend, TorchOptions
from services.llm.settings import LlmSettings
from services.llm.stream.requests import end_of_prompt_id, prompt_of
from services.llm.styles import read_styles
from tests.support.cuda import Cuda
from tests.support.logs import capture_logs
from tests.unit.llm.llm_support import ROOT, run, utterance

CPU = torch.device("cpu")
CV3 = ROOT / "tests" / "data" / "cosyvoice3-mini"

BARE_MACHINE = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
absent = ("grpc", "google", "structlog", "pydantic", "pydantic_settings", "prometheus_client", "tokenizers", "lighttts")
sys.modules |= dict.fromkeys(absent)
from services.common.checkpoint.model_dir import open_model_dir
from services.llm.loading import load_engine, warm_up
settings = SimpleNamespace(**json.loads(sys.argv[1]))
model = open_model_dir(Path(settings.model_dir))
engine = load_engine(settings, model, {"": model.weights_file("llm")})
warm_up(engine, model)
engine.close()
"""
"""Generates a few tokens with torch and numpy alone."""


def voice(text: list[int], speech: list[int]) -> Voice:
    return Voice(
        hash="v",
        transcript="",
        prompt_text_ids=np.array(text, dtype=np.int32),
        speech_tokens=np.array(speech, dtype=np.int32),
        mel=np.zeros((2 * len(speech), 80), dtype=np.float32),
        embedding=np.zeros(192, dtype=np.float32),
        seconds=1.0,
    )


def test_an_instruction_follows_sos_directly_in_interleaved_order(mini_dir: ModelDir, tmp_path: Path) -> None:
    third = replace(mini_dir, family=COSYVOICE3, path=CV3)
    boundary = end_of_prompt_id(third)
    assert boundary == 403
    assert end_of_prompt_id(mini_dir) is None
    start = llm_pb2.GenerateStart(prompt_use=llm_pb2.PROMPT_USE_ZERO_SHOT)
    spoken = voice([7, 8, boundary, 9], [1, 2])
    assert prompt_of(start, spoken, "whole", boundary) == Prompt((7, 8, 403, 9), (1, 2))
    assert prompt_of(start, spoken, "interleaved", boundary) == Prompt((9,), (1, 2), (7, 8, 403))
    assert prompt_of(start, voice([7], [1]), "interleaved", boundary) == Prompt((7,), (1,))
    timbre = llm_pb2.GenerateStart(prompt_use=llm_pb2.PROMPT_USE_TIMBRE)
    assert prompt_of(timbre, spoken, "interleaved", boundary) == Prompt()
    with pytest.raises(ModelDirError, match=r"vocab\.json is not readable"):
        end_of_prompt_id(replace(third, path=tmp_path))


def test_a_compiler_that_fails_is_done_without(mini_dir: ModelDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        def missing(*arguments: Any) -> Any:
            raise RuntimeError("no C++ compiler found\nfurther lines")

        return missing

    monkeypatch.setattr(torch, "compile", compiled)
    settings = LlmSettings(model_dir=mini_dir.path, llm_compile=True)
    with capture_logs() as logs:
        engine = load_engine(settings, mini_dir, read_styles(mini_dir))
    try:
        assert run(engine, utterance(2)).finish_reason is not None
    finally:
        engine.close()
    (line,) = [entry for entry in logs if entry.get("setting") == "llm_compile"]
    assert (line["instead"], line["reason"]) == ("plain layers", "no C++ compiler found")


@pytest.fixture(scope="module")
def tiny() -> ModelDir:
    """Its heads suit the paged kernel."""
    return open_model_dir(ROOT / "models" / "tiny")


def load(directory: ModelDir, device: str, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> dict[str, Any]:
    """Return the options of the backend for `device`; its tensors are the CPU's."""
    made: dict[str, Any] = {}

    def keep(model: SpeechLM, *, styles: Any, options: TorchOptions) -> TorchBackend:
        made["options"] = options
        return TorchBackend(model, options=TorchOptions())

    monkeypatch.setattr(loading, "TorchBackend", keep)
    monkeypatch.setattr(loading, "load_speech_lm", lambda model, device, *rest, **more: load_speech_lm(model, CPU))
    options = LlmSettings(model_dir=directory.path, device=device, **settings)
    with capture_logs() as made["logs"]:
        loading._torch_backend(options, directory, read_styles(directory), torch.device(device))
    made["replaced"] = {line["setting"]: line["instead"] for line in made["logs"] if "setting" in line}
    return made


GROUPS = {"paged_kernel": "ATTENTION", "layer_kernels": "LAYERS", "sampling_kernels": "SAMPLING"}
"""The modules of Triton kernels, and the names of what they offer."""


def triton_kernels(monkeypatch: pytest.MonkeyPatch, **groups: Any) -> None:
    """Replace the modules of the Triton kernels, which may be missing on this machine: each has these, or nothing."""
    for name, offer in GROUPS.items():
        module = ModuleType(f"services.llm.model.{name}")
        module.__dict__[offer] = groups.get(offer, {})
        monkeypatch.setitem(sys.modules, f"services.llm.model.{name}", module)


@pytest.mark.parametrize("int8_kv", [False, True])
def test_a_gpu_gets_the_kernels_that_agree_with_the_plain_ones(
    tiny: ModelDir, monkeypatch: pytest.MonkeyPatch, int8_kv: bool
) -> None:
    def same(part: Any) -> Any:
        return lambda *arguments: part(*arguments)

    attention = {"attend": same(PLAIN.attend), "attend_tiles": same(PLAIN.attend_tiles)}
    layers, sampling = {"silu_up": same(PLAIN.silu_up)}, {"sample": same(PLAIN.sample)}
    triton_kernels(monkeypatch, ATTENTION=attention, LAYERS=layers, SAMPLING=sampling)
    made = load(tiny, "cuda", monkeypatch, llm_int8_weights=True, llm_int8_kv=int8_kv)
    assert made["replaced"] == {"llm_int8_weights": "weights in bfloat16"}
    assert made["options"].kernels == replace(PLAIN, **attention, **layers, **sampling)
    assert made["options"].int8_kv is int8_kv
    assert made["options"].program_sizes == (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
    assert made["options"].prefill_sizes == (64, 128, 256, 512)
    made = load(tiny, "cuda", monkeypatch, llm_int8_kv=int8_kv, prefill_tokens=100, max_running=5)
    assert made["options"].prefill_sizes == (64, 128)
    assert made["options"].program_sizes == (1, 2, 4, 5)


def broken(*arguments: Any) -> Any:
    raise RuntimeError("failed to find a C compiler\nmore")


def no_numbers(query: torch.Tensor, *arguments: Any) -> torch.Tensor:
    return query * math.nan


def zeros(query: torch.Tensor, *arguments: Any) -> torch.Tensor:
    return 0 * query


def first_id(logits: torch.Tensor, *arguments: Any) -> torch.Tensor:
    return torch.zeros(len(logits), dtype=torch.int64)


def stays(*arguments: Any) -> None:
    pass


@pytest.mark.parametrize(
    ("group", "part", "wrong", "setting", "instead", "reason"),
    [
        ("ATTENTION", "attend", broken, "llm_paged_kernel", "copied K/V blocks", "failed to find a C compiler"),
        ("ATTENTION", "attend", zeros, "llm_paged_kernel", "copied K/V blocks", "differ from the plain ones by"),
        ("ATTENTION", "attend", no_numbers, "llm_paged_kernel", "copied K/V blocks", "differ from the plain ones by"),
        ("ATTENTION", "attend_tiles", zeros, "llm_paged_kernel", "copied K/V blocks", "differ from the plain ones by"),
        ("LAYERS", "rotate_and_store", broken, "llm_fused_kernels", "plain layers", "failed to find a C compiler"),
        ("SAMPLING", "sample", broken, "llm_fused_kernels", "plain sampling", "failed to find a C compiler"),
        ("SAMPLING", "sample", first_id, "llm_fused_kernels", "plain sampling", "only 0% of its ids"),
        ("SAMPLING", "advance", stays, "llm_fused_kernels", "plain sampling", "of its ids"),
    ],
)
def test_a_kernel_that_fails_or_disagrees_is_not_used(
    tiny: ModelDir,
    monkeypatch: pytest.MonkeyPatch,
    group: str,
    part: str,
    wrong: Any,
    setting: str,
    instead: str,
    reason: str,
) -> None:
    triton_kernels(monkeypatch, **{group: {part: wrong}})
    made = load(tiny, "cuda", monkeypatch)
    assert made["replaced"] == {setting: instead}
    assert reason in next(line["reason"] for line in made["logs"] if "setting" in line)
    assert made["options"].kernels == PLAIN


def test_without_triton_a_gpu_uses_plain_operations(tiny: ModelDir, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in GROUPS:
        monkeypatch.setitem(sys.modules, f"services.llm.model.{name}", None)
    made = load(tiny, "cuda", monkeypatch, llm_cuda_graphs=False)
    reasons = [line["reason"] for line in made["logs"] if "setting" in line]
    assert len(reasons) == 3
    assert all("triton package is missing" in reason for reason in reasons)
    assert made["options"] == TorchOptions(alignment=tiny.card.alignment)
    made = load(tiny, "cuda", monkeypatch, llm_paged_kernel=False, llm_fused_kernels=False)
    assert not made["replaced"]
    assert made["options"].prefill_sizes == ()  # a prompt's program needs its kernel
    assert made["options"].program_sizes[-1] == 32  # copied blocks take memory for each place of a batch


def test_heads_that_the_kernel_cannot_read_are_copied(mini_dir: ModelDir, monkeypatch: pytest.MonkeyPatch) -> None:
    triton_kernels(monkeypatch, ATTENTION={"attend": broken})
    made = load(mini_dir, "cuda", monkeypatch)
    assert "not 8" in next(line["reason"] for line in made["logs"] if "setting" in line)
    assert made["replaced"] == {"llm_paged_kernel": "copied K/V blocks"}
    assert made["options"].kernels == PLAIN


def test_fused_layers_are_not_compiled(tiny: ModelDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def add_norm(*arguments: Any) -> Any:
        return PLAIN.add_norm(*arguments)

    monkeypatch.setattr(torch, "compile", broken)
    triton_kernels(monkeypatch, LAYERS={"add_norm": add_norm})
    made = load(tiny, "cuda", monkeypatch, llm_compile=True)
    assert made["replaced"] == {"llm_compile": "fused kernels"}


def test_a_cpu_needs_nothing_replaced(tiny: ModelDir, monkeypatch: pytest.MonkeyPatch) -> None:
    made = load(tiny, "cpu", monkeypatch, llm_int8_weights=True, llm_int8_kv=True)
    assert not made["replaced"]
    assert made["options"] == TorchOptions(int8_kv=True, alignment=tiny.card.alignment)


def test_an_engine_of_an_absent_gpu_speaks_on_the_cpu(mini_dir: ModelDir) -> None:
    settings = LlmSettings(model_dir=mini_dir.path, device="cuda:1")
    with capture_logs() as logs:
        engine = load_engine(settings, mini_dir, read_styles(mini_dir))
    try:
        assert run(engine, utterance(2)).finish_reason is not None
        assert engine.limits.steps_per_turn == 1  # several only where graphs replay
    finally:
        engine.close()
    (line,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert line["event"].startswith("NO SUCH DEVICE, GENERATING ON THE CPU INSTEAD")


def test_a_bare_gpu_machine_can_load_an_engine(mini_dir: ModelDir) -> None:
    """There is torch, but no package that reads settings or writes logs."""
    settings = LlmSettings(model_dir=mini_dir.path).model_dump(mode="json")
    command = [sys.executable, "-c", BARE_MACHINE, json.dumps(settings)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr


def test_a_gpu_that_fails_while_the_model_is_loaded_gives_way(
    mini_dir: ModelDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_on_gpus(model: ModelDir, device: torch.device, *rest: Any, **more: Any) -> SpeechLM:
        if device.type == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return load_speech_lm(model, device, *rest, **more)

    monkeypatch.setattr(loading, "load_speech_lm", fail_on_gpus)
    cuda = Cuda(monkeypatch)
    settings = LlmSettings(model_dir=mini_dir.path, device="cuda", llm_memory_fraction=0.25)
    with capture_logs() as logs:
        engine = load_engine(settings, mini_dir, read_styles(mini_dir))
    engine.close()
    assert cuda.fractions == {0: 0.25}
    assert "GPU FAILED" in next(entry["event"] for entry in logs if entry["log_level"] == "error")
    assert next(entry for entry in logs if entry["event"] == "generating")["dtype"] == "float32"


def test_a_second_gpu_is_current_while_kernels_are_tried(tiny: ModelDir, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, launches = Cuda(monkeypatch), []

    def recorded(*arguments: Any) -> torch.Tensor:
        launches.append(("kernel", cuda.current))
        return gathered_tiles(*arguments)

    def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            launches.append(("compiled", cuda.current))
            return function(*arguments)

        return call

    triton_kernels(monkeypatch, ATTENTION={"attend_tiles": recorded})
    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(loading, "load_speech_lm", lambda model, device, *rest, **more: load_speech_lm(model, CPU))
    settings = LlmSettings(model_dir=tiny.path, device="cuda:1", llm_compile=True, llm_cuda_graphs=False)
    load_engine(settings, tiny, read_styles(tiny)).close()
    assert set(launches) == {("kernel", 1), ("compiled", 1)}


@pytest.mark.parametrize(("reason", "logged"), [("no shared memory\nmore", "no shared memory"), ("", "Exception")])
def test_a_step_that_cannot_be_recorded_runs_unrecorded(
    mini_model: SpeechLM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, reason: str, logged: str
) -> None:
    cuda, recorded_on = Cuda(monkeypatch), []

    def fail(pool: Any) -> None:
        recorded_on.append(cuda.current)
        raise Exception(reason)  # noqa: TRY002 - compilers raise many kinds of errors

    monkeypatch.setattr(torch_backend, "KVCache", mock.Mock())
    monkeypatch.setattr(torch_backend, "DecodeProgram", mock.Mock(return_value=mock.Mock(record=fail)))
    backend = TorchBackend(mini_model, options=TorchOptions(program_sizes=(1,)))
    backend.device = torch.device("cuda:1")
    backend.reserve(4, 16)
    assert recorded_on == [1]
    assert [vars(record)["reason"] for record in caplog.records] == [logged]
    assert backend._programs[""].decode == ()


def test_all_shapes_are_recorded_before_the_first_step(mini_model: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of prompts and of decode steps, the largest first, because the others use its memory."""
    cuda, recorded = Cuda(monkeypatch), []

    def program(kind: str) -> Callable[..., Any]:
        def make(model: SpeechLM, cache: Any, bans: Any, size: int, *rest: Any) -> Any:
            return mock.Mock(record=lambda pool: recorded.append((kind, size, cuda.current)))

        return make

    monkeypatch.setattr(torch_backend, "KVCache", mock.Mock())
    monkeypatch.setattr(torch_backend, "DecodeProgram", program("decode"))
    monkeypatch.setattr(torch_backend, "PrefillProgram", program("prompt"))
    backend = TorchBackend(mini_model, options=TorchOptions(program_sizes=(1, 8), prefill_sizes=(64, 128)))
    backend.device = torch.device("cuda:1")
    backend.reserve(4, 16)
    assert recorded == [("prompt", 128, 1), ("prompt", 64, 1), ("decode", 8, 1), ("decode", 1, 1)]


@pytest.mark.parametrize("make", [DecodeProgram, PrefillProgram])
def test_a_program_runs_before_its_first_sequence(
    mini_model: SpeechLM, make: type[DecodeProgram | PrefillProgram]
) -> None:
    """Recording runs it so. Zeros as input would be a repetition window of size 0, by which a step divides."""
    cache = KVCache(mini_model.config, 5, 16, CPU, torch.float32)
    kept = cache.keys.clone()
    program = make(mini_model, cache, torch.zeros(1, 6564, dtype=torch.bool), 16, 3, PLAIN)
    with torch.inference_mode():
        program.replay()
        program.replay()
    assert torch.equal(cache.keys[:, :4], kept[:, :4])  # only the spare block, the last one, is written
    assert not torch.equal(cache.keys[:, 4], kept[:, 4])


@pytest.mark.system
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
def test_compiled_layers_speak_the_same(mini_dir: ModelDir) -> None:
    """Needs a C++ compiler."""
    spoken = []
    for compiled in (False, True):
        settings = LlmSettings(model_dir=mini_dir.path, llm_compile=compiled)
        with capture_logs() as logs:
            engine = load_engine(settings, mini_dir, read_styles(mini_dir))
        try:
            assert not [entry for entry in logs if "setting" in entry]
            spoken.append([run(engine, utterance(number)).raw_ids for number in range(4)])
        finally:
            engine.close()
    assert spoken[0] == spoken[1]


def test_the_former_name_of_the_simulated_backend_still_works(caplog: pytest.LogCaptureFixture) -> None:
    assert LlmSettings(llm_backend="clocked").llm_backend == "simulated"
    assert "LIGHTTTS_LLM_BACKEND=clocked is deprecated" in caplog.text


def test_the_settings_name_the_older_guides_settings() -> None:
    """Users of the older guide find each of its names in the help."""
    help_text = " ".join(str(field.description) for field in LlmSettings.model_fields.values())
    names = ["gpt_paral_num", "gpt_paral_step_num", "max_total_token_num", "max_req_total_len", "batch_max_tokens"]
    for name in [*names, "router_max_wait_tokens", "triton_int8kv"]:
        assert f"[{name}]" in help_text.replace("\n", " ")
