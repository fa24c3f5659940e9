"""From settings and start messages to what the engine is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from llm_support import ROOT, run, utterance
from structlog.testing import capture_logs

from lighttts.v1 import llm_pb2
from services.common.modeldir import ModelDir, ModelDirError
from services.common.voice import Voice
from services.llm.layout import Prompt
from services.llm.loading import load_engine
from services.llm.requests import end_of_prompt_id, prompt_of
from services.llm.settings import LlmSettings
from services.llm.styles import read_styles

CV3 = ROOT / "tests" / "data" / "cosyvoice3-mini"


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
    third = replace(mini_dir, family="cosyvoice3", path=CV3)
    border = end_of_prompt_id(third)
    assert border == 403
    assert end_of_prompt_id(mini_dir) is None
    start = llm_pb2.GenerateStart(prompt_use=llm_pb2.PROMPT_USE_ZERO_SHOT)
    spoken = voice([7, 8, border, 9], [1, 2])
    assert prompt_of(start, spoken, "whole", border) == Prompt((7, 8, 403, 9), (1, 2))
    assert prompt_of(start, spoken, "interleaved", border) == Prompt((9,), (1, 2), (7, 8, 403))
    assert prompt_of(start, voice([7], [1]), "interleaved", border) == Prompt((7,), (1,))
    timbre = llm_pb2.GenerateStart(prompt_use=llm_pb2.PROMPT_USE_TIMBRE)
    assert prompt_of(timbre, spoken, "interleaved", border) == Prompt()
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


def test_the_settings_name_their_forerunners() -> None:
    """People who come from the older guide find each of its names in the help."""
    help_text = " ".join(str(field.description) for field in LlmSettings.model_fields.values())
    names = ["gpt_paral_num", "gpt_paral_step_num", "max_total_token_num", "max_req_total_len", "batch_max_tokens"]
    for name in [*names, "router_max_wait_tokens", "triton_int8kv"]:
        assert f"[{name}]" in help_text.replace("\n", " ")
