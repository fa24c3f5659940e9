"""Registered speakers: both forms of `spk2info.pt`, and unusable files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from services.common.checkpoint.model_dir import ModelDirError, open_model_dir
from services.encode.voice.speakers import read_speakers

MODEL = open_model_dir(Path(__file__).parents[2] / "data" / "cosyvoice2-mini")


def whole_prompt(tokens: int = 10, frames: int = 20) -> dict[str, Any]:
    """Return the entry that upstream saves for a zero-shot prompt."""
    speech = torch.arange(tokens, dtype=torch.int32)[None]
    return {
        "prompt_text": torch.tensor([[1, 2, 3]], dtype=torch.int32),
        "prompt_text_len": torch.tensor([3], dtype=torch.int32),
        "llm_prompt_speech_token": speech,
        "llm_prompt_speech_token_len": torch.tensor([tokens], dtype=torch.int32),
        "flow_prompt_speech_token": speech,
        "flow_prompt_speech_token_len": torch.tensor([tokens], dtype=torch.int32),
        "prompt_speech_feat": torch.randn(1, frames, 80),
        "prompt_speech_feat_len": torch.tensor([frames], dtype=torch.int32),
        "llm_embedding": torch.ones(1, 192),
        "flow_embedding": torch.full((1, 192), 2.0),
    }


def save(path: Path, **speakers: Any) -> Path:
    torch.save(speakers, path / "spk2info.pt")
    return path / "spk2info.pt"


def test_an_embedding_only() -> None:
    voices = read_speakers(MODEL.path / "spk2info.pt", MODEL)
    assert sorted(voices) == ["mini_a", "mini_b"]
    voice = voices["mini_a"]
    assert voice.speech_tokens.size == voice.mel.size == voice.prompt_text_ids.size == 0
    assert voice.mel.shape == (0, 80)
    assert voice.embedding.shape == (192,)
    assert voice.hash != voices["mini_b"].hash


def test_a_whole_prompt_is_aligned(tmp_path: Path) -> None:
    voice = read_speakers(save(tmp_path, anna=whole_prompt(tokens=12, frames=21)), MODEL)["anna"]
    assert voice.prompt_text_ids.tolist() == [1, 2, 3]
    assert voice.speech_tokens.tolist() == list(range(10))
    assert voice.mel.shape == (20, 80)
    np.testing.assert_array_equal(voice.embedding, np.full(192, 2.0, np.float32))


def test_no_file_means_no_speakers(tmp_path: Path) -> None:
    assert read_speakers(tmp_path / "spk2info.pt", MODEL) == {}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"embedding": torch.zeros(1, 7)}, "not a row of 192 numbers"),
        ({"embedding": torch.full((1, 192), float("nan"))}, "not a row of 192 numbers"),
        ({"name": torch.zeros(1)}, "embedding"),
        (whole_prompt() | {"prompt_text": torch.tensor([[99999]])}, "ids outside 0 to 639"),
        ({"embedding": "text"}, "is unusable"),
    ],
)
def test_an_entry_that_does_not_fit_is_named(tmp_path: Path, entry: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelDirError, match=rf"speaker 'anna' is unusable .*{words}|{words}"):
        read_speakers(save(tmp_path, anna=entry), MODEL)


def test_a_file_that_holds_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spk2info.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ModelDirError, match="damaged or has more than tensors"):
        read_speakers(tmp_path / "spk2info.pt", MODEL)
