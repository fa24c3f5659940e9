"""Weight files are data: code in them does not run, and objects other than tensors are refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from services.common.checkpoint.model_dir import ModelDirError
from services.common.checkpoint.weights import load_strict, read_weights


def saved(tmp_path: Path, state: Any) -> Path:
    path = tmp_path / "weights.pt"
    torch.save(state, path)
    return path


def test_names_and_types_become_current(tmp_path: Path) -> None:
    state = {
        "a.block1.block.1.weight": torch.ones(3, dtype=torch.float16),
        "a.block2.block.1.bias": torch.ones(3, dtype=torch.float64),
        "a.block1.block.0.weight": torch.ones(3),
        "steps": torch.tensor(3),
    }
    weights = read_weights(saved(tmp_path, state))
    assert set(weights) == {"a.block1.block.2.weight", "a.block2.block.2.bias", "a.block1.block.0.weight"}
    assert {value.dtype for value in weights.values()} == {torch.float32}


class Command:
    """An object that runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("write", [torch.save, lambda item, path: path.write_bytes(pickle.dumps(item, protocol=2))])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, write: Any) -> None:
    marker, path = tmp_path / "marker", tmp_path / "weights.pt"
    write({"key": Command(marker)}, path)
    with pytest.raises(ModelDirError) as caught:
        read_weights(path)
    assert str(path) in str(caught.value)
    assert "weights_only" not in str(caught.value)  # no advice to switch the safety off
    assert not marker.exists()


def test_a_file_without_a_state_dict_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelDirError, match="does not exist"):
        read_weights(tmp_path / "none.pt")
    for content in (torch.zeros(3), [torch.zeros(3)], {"a": {"b": torch.zeros(3)}}, {"epoch": 3}):
        with pytest.raises(ModelDirError, match="not a plain state dict of tensors"):
            read_weights(saved(tmp_path, content))


def test_every_mismatch_is_named() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    good = dict(module.state_dict())
    load_strict(module, good, "llm.pt")
    load_strict(module, {**good, "old.head": torch.zeros(1)}, "llm.pt", ignore=("old.",))
    bad = {key: value for key, value in good.items() if key != "0.bias"}
    bad |= {"1.weight": torch.zeros(3, 3), "extra": torch.zeros(1)}
    with pytest.raises(ModelDirError) as caught:
        load_strict(module, bad, "llm.pt")
    message = str(caught.value)
    for words in ("llm.pt", "missing: 0.bias [3]", "1.weight is [3, 3], expected [2, 3]", "unexpected: extra"):
        assert words in message
    many = good | {f"extra{index}": torch.zeros(1) for index in range(9)}
    with pytest.raises(ModelDirError, match="and 6 more"):
        load_strict(module, many, "llm.pt")
