"""The sizes of the voice's networks, from the template of its model directory (`training/data/model`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from services.common.checkpoint.flow_config import FlowConfig, read_flow
from services.common.checkpoint.hyperyaml import read_hyper_yaml
from services.common.checkpoint.model_dir import LlmConfig, MelConfig
from services.common.checkpoint.vocoder_config import VocoderConfig, read_vocoder
from services.common.families import COSYVOICE2

TEMPLATE = Path(__file__).parent / "data" / "model"
LEVELS, DIGITS = 3, 6
"""A speech token is a number of DIGITS digits to the base LEVELS."""


def flow_config() -> FlowConfig:
    """Return the flow's sizes."""
    return read_flow(_yaml(), COSYVOICE2.flow)


def vocoder_config() -> VocoderConfig:
    """Return the vocoder's sizes."""
    return read_vocoder(_yaml(), COSYVOICE2.vocoder, MelConfig().hop)


def llm_config() -> LlmConfig:
    """Return the language model's sizes."""
    qwen = json.loads((TEMPLATE / "CosyVoice-BlankEN" / "config.json").read_text(encoding="utf-8"))
    raw = _yaml()
    text, speech = raw["llm"]["mix_ratio"]
    return LlmConfig(
        hidden_size=qwen["hidden_size"],
        num_layers=qwen["num_hidden_layers"],
        num_heads=qwen["num_attention_heads"],
        num_kv_heads=qwen["num_key_value_heads"],
        head_dim=qwen["head_dim"],
        intermediate_size=qwen["intermediate_size"],
        text_vocab=qwen["vocab_size"],
        speech_tokens=raw["llm"]["speech_token_size"],
        rms_norm_eps=qwen["rms_norm_eps"],
        rope_theta=qwen["rope_theta"],
        mix_ratio=(int(text), int(speech)),
    )


def _yaml() -> dict[str, Any]:
    return read_hyper_yaml(TEMPLATE / "cosyvoice2.yaml")
