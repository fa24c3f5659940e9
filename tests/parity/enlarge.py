"""The mini checkpoint with other sizes and the same outputs: wider layers whose new units weigh nothing, and further
blocks that pass their input on. Its goldens stay true, so checks that take a size for granted fail on it.
"""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

State = dict[str, Tensor]
UNITS = 8
"""How many units each widened layer gains."""


def enlarge(source: Path, target: Path) -> None:
    """Writes the enlarged folder `target` (which must not exist) from the mini folder `source`."""
    shutil.copytree(source, target)
    (target / "state_dict_shapes.json").unlink()
    third = (source / "cosyvoice3.yaml").is_file()
    for part, change in (("llm", _llm), ("flow", _dit if third else _flow), ("hift", _hift)):
        state: State = torch.load(source / f"{part}.pt", weights_only=True)
        change(state)
        torch.save(state, target / f"{part}.pt")
    _edit_yaml(target / ("cosyvoice3.yaml" if third else "cosyvoice2.yaml"))
    qwen = target / "CosyVoice-BlankEN" / "config.json"
    config = json.loads(qwen.read_text(encoding="utf-8"))
    for name, growth in (("num_hidden_layers", 1), ("intermediate_size", UNITS), ("vocab_size", UNITS)):
        config[name] += growth
    qwen.write_text(json.dumps(config), encoding="utf-8")


def _grown(growth: int, number: re.Match[str]) -> str:
    return str(int(number.group()) + growth)


def _edit_yaml(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for name, growth in (
        ("linear_units", UNITS),
        ("num_blocks", 1),
        ("n_blocks", 1),
        ("num_mid_blocks", 1),
        ("cond_channels", UNITS),
        ("depth", 1),
        ("ff_mult", 1),
        ("channels", UNITS),
    ):
        text = re.sub(rf"(?<=\b{name}: )\d+", partial(_grown, growth), text)
    path.write_text(text, encoding="utf-8")


def _llm(state: State) -> None:
    layers = "llm.model.model.layers."
    for key in ("llm.model.model.embed_tokens.weight", "llm.model.lm_head.weight"):
        state[key] = _widen(state[key], 0)
    for key in list(state):
        if key.endswith(("gate_proj.weight", "up_proj.weight")):
            state[key] = _widen(state[key], 0)
        elif key.endswith("down_proj.weight"):
            state[key] = _widen(state[key], 1)
    _append_block(state, layers, silent=("self_attn.o_proj.weight", "mlp.down_proj.weight"))


def _flow(state: State) -> None:
    for key in list(state):
        if re.search(r"feed_forward\.w_1\.(weight|bias)$", key):
            state[key] = _widen(state[key], 0)
        elif key.endswith("feed_forward.w_2.weight"):
            state[key] = _widen(state[key], 1)
    silent = ("self_attn.linear_out.weight", "self_attn.linear_out.bias")
    _append_block(state, "encoder.encoders.", silent=(*silent, "feed_forward.w_2.weight", "feed_forward.w_2.bias"))
    stages = {key.rpartition(".1.")[0] for key in _estimator_stages(state)}
    quiet = ("attn1.to_out.0.weight", "attn1.to_out.0.bias", "ff.net.2.weight", "ff.net.2.bias")
    for stage in sorted(stages):
        _append_block(state, f"{stage}.1.", silent=quiet)
    _append_mid_stage(state)


def _dit(state: State) -> None:
    """CosyVoice3's flow: wider pre-lookahead and feed-forward layers, and a block that passes its input on."""
    for name in ("weight", "bias"):
        state[f"pre_lookahead_layer.conv1.{name}"] = _widen(state[f"pre_lookahead_layer.conv1.{name}"], 0)
    state["pre_lookahead_layer.conv2.weight"] = _widen(state["pre_lookahead_layer.conv2.weight"], 1)
    width = state["decoder.estimator.proj_out.weight"].shape[1]
    for key in list(state):
        if re.search(r"ff\.ff\.0\.0\.(weight|bias)$", key):
            state[key] = _widen(state[key], 0, units=width)
        elif key.endswith("ff.ff.2.weight"):
            state[key] = _widen(state[key], 1, units=width)
    silent = ("attn.to_out.0.weight", "attn.to_out.0.bias", "ff.ff.2.weight", "ff.ff.2.bias")
    _append_block(state, "decoder.estimator.transformer_blocks.", silent=silent)


def _estimator_stages(state: State) -> list[str]:
    pattern = re.compile(r"(decoder\.estimator\.(?:down|mid|up)_blocks\.\d+\.1\.)0\.norm1\.weight")
    return [match.group(1) for key in state if (match := pattern.match(key))]


def _append_mid_stage(state: State) -> None:
    """A residual block whose shortcut is the identity and whose branch is zero, then silent transformer blocks."""
    prefix = "decoder.estimator.mid_blocks."
    quiet: tuple[str, ...] = ("0.block2.block.2.weight", "0.block2.block.2.bias", "0.res_conv.bias")
    blocks = {key.split(".")[5] for key in state if key.startswith(f"{prefix}0.1.")}
    for block in blocks:
        quiet += tuple(f"1.{block}.{name}" for name in ("attn1.to_out.0.weight", "attn1.to_out.0.bias"))
        quiet += tuple(f"1.{block}.{name}" for name in ("ff.net.2.weight", "ff.net.2.bias"))
    index = _append_block(state, prefix, silent=quiet)
    shortcut = f"{prefix}{index}.0.res_conv.weight"
    state[shortcut] = torch.eye(state[shortcut].shape[0])[..., None]


def _hift(state: State) -> None:
    """Pitch layers with more channels, which are zero and stay zero (weight norm needs a direction, so v is one)."""
    for key in list(state):
        match = re.match(r"f0_predictor\.condnet\.(\d+)\.(.+)$", key)
        if match is None:
            continue
        first, name = match.group(1) == "0", match.group(2)
        grown = _widen(state[key], 0, fill=1.0 if name.endswith("original1") else 0.0)
        state[key] = grown if first or not name.endswith("original1") else _widen(grown, 1)
    state["f0_predictor.classifier.weight"] = _widen(state["f0_predictor.classifier.weight"], 1)


def _widen(tensor: Tensor, dim: int, fill: float = 0.0, units: int = UNITS) -> Tensor:
    shape = list(tensor.shape)
    shape[dim] = units
    return torch.cat((tensor, torch.full(shape, fill)), dim=dim)


def _append_block(state: State, prefix: str, silent: tuple[str, ...]) -> int:
    """Copies block 0 behind the last one with the `silent` tensors zero; returns the new block's index."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.(.+)")
    matches = [match for key in state if (match := pattern.fullmatch(key))]
    index = max(int(match.group(1)) for match in matches) + 1
    for match in matches:
        if match.group(1) == "0":
            tensor, name = state[match.group()].clone(), match.group(2)
            state[f"{prefix}{index}.{name}"] = torch.zeros_like(tensor) if name in silent else tensor
    return index
