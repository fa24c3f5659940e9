"""Styles: checkpoints of the llm in addition to the directory's own; each utterance uses one of them.

`style_config.json` in the model directory names them: `{"lora_info": [{"style_name": ..., "llm_path": ...}]}`. All
styles share flow and vocoder, and every worker serves every style.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from services.common.checkpoint.model_dir import ModelDir, ModelDirError

STYLE_FILE = "style_config.json"
DEFAULT = "default"
"""The directory's own `llm.pt`, unless an entry of this name replaces it."""


def read_styles(model: ModelDir, variant: str = "") -> dict[str, Path]:
    """Return style names and checkpoints, the default one first. Relative paths start at the model directory.

    `variant` selects other weights that the checkpoint was published with, such as `rl`. They are a style of that name:
    an utterance does not move between workers of different weights, and a request for `default` does not get them.
    Raises ModelDirError with the file and the wrong entry, or with the variant that is missing.
    """
    styles = {variant or DEFAULT: _own_weights(model, variant)}
    path = model.path / STYLE_FILE
    if not path.is_file():
        return styles
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["lora_info"]
        listed = [_entry(model, entry) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        form = '{"lora_info": [{"style_name": "...", "llm_path": "..."}]}'
        raise ModelDirError(f"{path} must have the form {form} ({error!r})") from error
    names = [name for name, _ in listed]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ModelDirError(f"{path} names {', '.join(twice)} more than once")
    missing = [str(checkpoint) for _, checkpoint in listed if not checkpoint.is_file()]
    if missing:
        raise ModelDirError(f"{path} names files that do not exist: {', '.join(missing)}")
    return styles | dict(listed)


def _own_weights(model: ModelDir, variant: str) -> Path:
    family = model.family
    if variant and variant not in family.llm_variants:
        advice = f"use {', '.join(family.llm_variants)} or leave it empty" if family.llm_variants else "leave it empty"
        raise ModelDirError(f"LIGHTTTS_LLM_WEIGHTS is {variant}; for a checkpoint of {family.name} {advice}")
    path = model.path / family.llm_file(variant)
    if not path.is_file():
        command = f"`light-tts fetch {family.name} {model.path} --llm {variant}`"
        raise ModelDirError(f"{path} is missing, which LIGHTTTS_LLM_WEIGHTS={variant} selects; {command} downloads it")
    return path


def _entry(model: ModelDir, entry: Mapping[str, str]) -> tuple[str, Path]:
    name, path = entry["style_name"], entry["llm_path"]
    if not (isinstance(name, str) and name and isinstance(path, str) and path):
        raise ValueError("style_name and llm_path must be strings that are not empty")
    return name, model.path / path
