"""Loading `llm.pt`, and the embedded voice through the whole engine."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from services.common.checkpoint.model_dir import ModelDir, ModelDirError, open_model_dir
from services.llm.engine.engine import LlmEngine
from services.llm.engine.sequence import Request, SamplingOptions
from services.llm.model.model import load_speech_lm
from services.llm.model.torch_backend import TorchBackend
from tests.unit.llm.llm_support import ROOT, Listener


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("llm.model.model.layers.1.mlp.up_proj.weight"), "missing: llm.model.model.layers.1"),
        (lambda state: state.update({"speech_embedding.weight": torch.zeros(9, 32)}), r"speech_embedding.weight is \["),
        (lambda state: state.update(extra=torch.zeros(1)), "unexpected: extra"),
    ],
)
def test_damaged_weights_name_the_key(mini_dir: ModelDir, tmp_path: Path, change: object, message: str) -> None:
    path = shutil.copytree(mini_dir.path, tmp_path / "model")
    state = torch.load(path / "llm.pt", weights_only=True)
    assert callable(change)
    change(state)
    torch.save(state, path / "llm.pt")
    with pytest.raises(ModelDirError, match=message):
        load_speech_lm(open_model_dir(path))


def test_lower_precision_stays_near(mini_dir: ModelDir) -> None:
    model = load_speech_lm(mini_dir, dtype=torch.bfloat16)
    # Norms and the output layer stay float32.
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16, torch.float32}
    engine = LlmEngine(TorchBackend(model), mini_dir)
    listener = Listener()
    engine.submit(Request((1, 2, 3)), listener)
    assert listener.wait().finish_reason is not None
    engine.close()


def test_the_embedded_voice_speaks_at_a_plausible_pace() -> None:
    directory = open_model_dir(ROOT / "models" / "tiny")
    tokenizer = Tokenizer.from_file(str(directory.tokenizer_dir / "tokenizer.json"))
    sentences = (directory.path / "heldout25.txt").read_text(encoding="utf-8").splitlines()[:8]
    engine = LlmEngine(TorchBackend(load_speech_lm(directory)), directory)
    listeners = []
    for seed, sentence in enumerate(sentences):
        listeners.append(Listener())
        text = tuple(tokenizer.encode(sentence).ids)
        engine.submit(Request(text, sampling=SamplingOptions(seed=seed)), listeners[-1])
    for sentence, listener in zip(sentences, listeners, strict=True):
        assert listener.wait().finish_reason == "stop"
        # English speech runs at some 10 to 25 characters a second, and a token is 1/25 s.
        characters_per_second = len(sentence) * directory.token_rate / len(listener.ids)
        assert 8 < characters_per_second < 30, sentence
    engine.close()
    assert engine.stats().kv_blocks_used == 0
