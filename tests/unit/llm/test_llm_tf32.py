"""The language model's float32 parts (norms and logits, or all) run without TF32 on a GPU."""

from __future__ import annotations

import torch

from services.common.checkpoint.model_dir import ModelDir
from services.llm.loading import load_engine
from services.llm.settings import LlmSettings
from services.llm.styles import read_styles
from tests.support.tf32 import torch_defaults


def test_a_loaded_engine_has_forbidden_tf32(mini_dir: ModelDir) -> None:
    with torch_defaults():
        torch.set_float32_matmul_precision("high")
        assert torch.backends.cudnn.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32
        load_engine(LlmSettings(model_dir=mini_dir.path), mini_dir, read_styles(mini_dir)).close()
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
