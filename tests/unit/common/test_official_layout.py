"""The official 0.5B layout, without its memory: our modules have exactly the tensors of the official files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.official.checkpoint import FAMILIES, HERE, official_shapes, parameters, random_state
from services.common.checkpoint.model_dir import ModelDir, open_model_dir
from services.common.checkpoint.weights import load_strict, read_weights
from services.decode.flow.kv_cache import block_bytes
from services.decode.flow.model import make_front, make_network
from services.decode.vocoder.hift import Generator
from services.decode.vocoder.pitch import PitchPredictor
from services.decode.vocoder.source import HarmonicSource
from services.llm.model.model import SpeechLM


@pytest.fixture(scope="module", params=FAMILIES)
def official(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelDir:
    """The official configuration with empty files in place of weights."""
    family: str = request.param
    root = tmp_path_factory.mktemp("official")
    (root / "CosyVoice-BlankEN").mkdir()
    (root / f"{family}.yaml").write_bytes((HERE / f"{family}.yaml").read_bytes())
    (root / "CosyVoice-BlankEN" / "config.json").write_bytes((HERE / "config.json").read_bytes())
    for name in ("llm.pt", "flow.pt", "hift.pt", "campplus.onnx", f"speech_tokenizer_v{family[-1]}.onnx"):
        (root / name).touch()
    return open_model_dir(root)


def on_meta(model: ModelDir, part: str) -> dict[str, Tensor]:
    """Return the official tensors without storage, with weight norm folded."""
    state = {}
    for key, shape in official_shapes(model.family.name)[part].items():
        if not key.endswith("original0"):
            state[key.replace(".parametrizations.weight.original1", ".weight")] = torch.empty(shape, device="meta")
    return state


def below(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def check(module: nn.Module, state: dict[str, Tensor]) -> None:
    wanted = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    assert wanted == {key: tuple(value.shape) for key, value in state.items()}


@pytest.mark.parametrize(
    ("family", "counts", "flow", "hift"),
    [
        ("cosyvoice2", {"llm": 295, "flow": 1121, "hift": 328}, 112.5e6, 20.8e6),
        ("cosyvoice3", {"llm": 293, "flow": 330, "hift": 328}, 332e6, 20.8e6),
    ],
)
def test_the_listed_tensors_are_the_official_ones(
    family: str, counts: dict[str, int], flow: float, hift: float
) -> None:
    shapes = official_shapes(family)
    assert {part: len(keys) for part, keys in shapes.items()} == counts
    assert parameters(shapes["flow"]) == pytest.approx(flow, rel=0.01)
    assert parameters(shapes["hift"]) == pytest.approx(hift, rel=0.03)


def test_llm(official: ModelDir) -> None:
    state = on_meta(official, "llm")
    del state["llm.model.lm_head.weight"]
    with torch.device("meta"):
        module = SpeechLM(official.llm)
    load_strict(module, state, "llm.pt")


def test_flow(official: ModelDir) -> None:
    state = on_meta(official, "flow")
    with torch.device("meta"):
        check(make_network(official.flow), below("decoder.estimator.", state))
        front = make_front(official.flow)
    rest = ("decoder.", "spk_embed_affine_layer.")
    check(front, {key: value for key, value in state.items() if not key.startswith(rest)})


def test_a_second_of_a_streams_state(official: ModelDir) -> None:
    """Megabytes in bfloat16: the figures of spec sections 6.3 and 9, with the encoder's for CosyVoice2."""
    with torch.device("meta"):
        front, network = make_front(official.flow), make_network(official.flow)
    solver, tokens = official.flow.solver, official.flow.chunk_tokens
    estimator = network.layout(2 * tokens, solver.steps, solver.rows)
    size = block_bytes({**front.layouts(tokens), "estimator": estimator}, torch.bfloat16)
    assert size / 1e6 == pytest.approx({"cosyvoice2": 115.4, "cosyvoice3": 90.1}[official.family.name], abs=0.1)


def test_vocoder(official: ModelDir) -> None:
    state, config = on_meta(official, "hift"), official.vocoder
    source, pitch = below("m_source.", state), below("f0_predictor.", state)
    rest = {key: value for key, value in state.items() if not key.startswith(("m_source.", "f0_predictor."))}
    with torch.device("meta"):
        check(HarmonicSource(config), source)
        check(PitchPredictor(config), pitch)
        check(Generator(config), rest)


def test_random_weights_are_written_as_official_files_are(tmp_path: Path) -> None:
    shapes = {"m_source.l_linear.weight": (1, 9), "m_source.l_linear.bias": (1,)}
    torch.save(random_state(shapes, seed=0), tmp_path / "hift.pt")
    assert {key: tuple(value.shape) for key, value in read_weights(tmp_path / "hift.pt").items()} == shapes
