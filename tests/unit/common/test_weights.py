"""Loading official checkpoints: older spellings, damaged files, and keys that do not match."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from services.common.checkpoint.model_dir import ModelDirError
from services.common.checkpoint.weights import load_strict, read_weights, without_weights

MINI = Path(__file__).parents[2] / "data" / "cosyvoice2-mini"


def respelled(part: str, path: Path, *changes: tuple[str, str]) -> dict[str, Tensor]:
    """Return the mini model's weights, read from a copy with other key names."""
    state = torch.load(MINI / f"{part}.pt", weights_only=True)
    for pattern, replacement in changes:
        assert any(re.search(pattern, key) for key in state)
        state = {re.sub(pattern, replacement, key): value for key, value in state.items()}
    torch.save(state, path)
    return read_weights(path)


def test_older_spellings_give_the_same_weights(tmp_path: Path) -> None:
    hift = respelled(
        "hift",
        tmp_path / "hift.pt",
        (r"\.parametrizations\.weight\.original0$", ".weight_g"),
        (r"\.parametrizations\.weight\.original1$", ".weight_v"),
        (r"^", "generator."),
    )
    flow = respelled("flow", tmp_path / "flow.pt", (r"\.(block[12])\.block\.2\.", r".\1.block.1."))
    for ours, part in ((hift, "hift"), (flow, "flow")):
        current = read_weights(MINI / f"{part}.pt")
        assert ours.keys() == current.keys()
        assert all(torch.equal(ours[key], current[key]) for key in current)


def test_weight_norm_is_folded_over_all_dimensions_but_the_first(tmp_path: Path) -> None:
    conv = nn.utils.parametrizations.weight_norm(nn.ConvTranspose1d(3, 4, 5))
    torch.save({f"ups.0.{key}": value for key, value in conv.state_dict().items()}, tmp_path / "w.pt")
    folded = read_weights(tmp_path / "w.pt")
    torch.testing.assert_close(folded["ups.0.weight"], conv.weight.detach(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None], ids=["empty", "text", "cut off"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "hift.pt"
    path.write_bytes((MINI / "hift.pt").read_bytes()[:9999] if content is None else content)
    with pytest.raises(ModelDirError, match=r"hift\.pt .*damaged"):
        read_weights(path)


def test_keys_that_do_not_match_are_named() -> None:
    module = nn.Linear(3, 2)
    with pytest.raises(ModelDirError, match=r"missing: bias \[2\]; misshapen: weight .*; unexpected: scale"):
        load_strict(module, {"weight": torch.zeros(2, 4), "scale": torch.zeros(1)}, "llm.pt")


def test_modules_take_their_weights_without_drawing_random_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """On meta, a draw would import PyTorch's compiler: seconds of every worker's start."""
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)  # an import of it fails
    with without_weights():
        made = nn.Sequential(nn.Embedding(7, 3), nn.Linear(3, 3), nn.Conv1d(3, 3, 1))
    assert all(value.is_meta for value in made.state_dict().values())
    weights = {key: torch.rand(value.shape) for key, value in made.state_dict().items()}
    load_strict(made, weights, "any.pt")
    assert all(value.data_ptr() == weights[key].data_ptr() for key, value in made.state_dict().items())
