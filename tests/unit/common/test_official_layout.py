"""The official 0.5B layout, without its memory: our modules have exactly the tensors of the official files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.official.checkpoint import MINI, official_shapes, parameters, random_state
from services.common.checkpoint.model_dir import ModelDir, open_model_dir
from services.common.checkpoint.weights import load_strict, read_weights
from services.decode.flow.model import make_front, make_network
from services.decode.vocoder.hift import Generator
from services.decode.vocoder.pitch import PitchPredictor
from services.decode.vocoder.source import HarmonicSource
from services.llm.model.model import SpeechLM


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> ModelDir:
    """The official configuration with empty files in place of weights."""
    root = tmp_path_factory.mktemp("official")
    (root / "CosyVoice-BlankEN").mkdir()
    source = MINI.parents[2] / "benchmarks" / "official"
    (root / "cosyvoice2.yaml").write_bytes((source / "cosyvoice2.yaml").read_bytes())
    (root / "CosyVoice-BlankEN" / "config.json").write_bytes((source / "config.json").read_bytes())
    for name in ("llm.pt", "flow.pt", "hift.pt", "campplus.onnx", "speech_tokenizer_v2.onnx"):
        (root / name).touch()
    return open_model_dir(root)


def on_meta(part: str) -> dict[str, Tensor]:
    """Return the official tensors without storage, with weight norm folded."""
    state = {}
    for key, shape in official_shapes()[part].items():
        if not key.endswith("original0"):
            state[key.replace(".parametrizations.weight.original1", ".weight")] = torch.empty(shape, device="meta")
    return state


def below(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def check(module: nn.Module, state: dict[str, Tensor]) -> None:
    wanted = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    assert wanted == {key: tuple(value.shape) for key, value in state.items()}


def test_the_listed_tensors_are_the_official_ones() -> None:
    shapes = official_shapes()
    assert {part: len(keys) for part, keys in shapes.items()} == {"llm": 295, "flow": 1121, "hift": 328}
    assert parameters(shapes["flow"]) == pytest.approx(112.5e6, rel=0.01)
    assert parameters(shapes["hift"]) == pytest.approx(20.8e6, rel=0.01)


def test_llm(official: ModelDir) -> None:
    state = on_meta("llm")
    del state["llm.model.lm_head.weight"]
    with torch.device("meta"):
        module = SpeechLM(official.llm)
    load_strict(module, state, "llm.pt")


def test_flow(official: ModelDir) -> None:
    state = on_meta("flow")
    with torch.device("meta"):
        check(make_network(official.flow), below("decoder.estimator.", state))
        front = make_front(official.flow)
    rest = ("decoder.", "spk_embed_affine_layer.")
    check(front, {key: value for key, value in state.items() if not key.startswith(rest)})


def test_vocoder(official: ModelDir) -> None:
    state, config = on_meta("hift"), official.vocoder
    source, pitch = below("m_source.", state), below("f0_predictor.", state)
    rest = {key: value for key, value in state.items() if not key.startswith(("m_source.", "f0_predictor."))}
    with torch.device("meta"):
        check(HarmonicSource(config), source)
        check(PitchPredictor(config.in_channels, config.f0_channels), pitch)
        check(Generator(config), rest)


def test_random_weights_are_written_as_official_files_are(tmp_path: Path) -> None:
    shapes = {"m_source.l_linear.weight": (1, 9), "m_source.l_linear.bias": (1,)}
    torch.save(random_state(shapes, seed=0), tmp_path / "hift.pt")
    assert {key: tuple(value.shape) for key, value in read_weights(tmp_path / "hift.pt").items()} == shapes
