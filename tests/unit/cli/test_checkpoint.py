"""`light-tts doctor DIR` with complete and damaged directories."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from cli.model import checkpoint
from cli.model.checkpoint import examine_checkpoint

DATA = Path(__file__).parents[2] / "data"


def report(path: Path) -> dict[str, list[str]]:
    """Return the findings by level."""
    found: dict[str, list[str]] = {"ok": [], "warn": [], "fail": []}
    for finding in examine_checkpoint(path):
        found[finding.level].append(finding.what)
        assert finding.level == "ok" or finding.remedy
    return found


def test_a_complete_directory() -> None:
    found = report(DATA / "cosyvoice2-mini")
    assert not found["fail"]
    assert any("cosyvoice2, 24000 Hz" in line for line in found["ok"])
    assert "spk2info.pt: 2 registered speakers: mini_a, mini_b" in found["ok"]


def test_every_missing_file_is_named_with_its_purpose(tmp_path: Path) -> None:
    heavy = shutil.ignore_patterns("*.npz", "flow.pt", "hift.pt", "*.onnx")
    shutil.copytree(DATA / "cosyvoice3-mini", tmp_path / "parts", ignore=heavy)
    missing = report(tmp_path / "parts")["fail"]
    assert [line.split(": ")[1].split()[0] for line in missing] == [
        "flow.pt",
        "hift.pt",
        "campplus.onnx",
        "speech_tokenizer_v3.onnx",
    ]
    assert "no voice can be extracted without it" in missing[-1]


def test_directories_that_are_not_model_directories(tmp_path: Path) -> None:
    assert "does not exist" in report(tmp_path / "nowhere")["fail"][0]
    assert "not a model directory: it holds neither" in report(tmp_path)["fail"][0]
    assert f"but {DATA / 'cosyvoice2-mini'} is" in report(DATA)["fail"][0]
    (tmp_path / "cosyvoice.yaml").touch()
    assert "first CosyVoice" in report(tmp_path)["fail"][0]


def test_damage_is_found(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(DATA / "cosyvoice2-mini", broken)
    (broken / "flow.pt").write_bytes((broken / "flow.pt").read_bytes()[:5000])
    (broken / "campplus.onnx").write_bytes(b"no graph")
    torch.save({"mini_c": {"embedding": torch.zeros(3)}}, broken / "spk2info.pt")
    found = report(broken)["fail"]
    assert len(found) == 3
    assert "flow.pt" in found[0]
    assert "campplus.onnx" in found[1]
    assert "'mini_c' is unusable" in found[2]


def test_weights_that_do_not_fit_the_configuration_are_named(tmp_path: Path) -> None:
    """A directory with files of two checkpoints: what cannot be spoken or decoded, and why."""
    mixed = tmp_path / "mixed"
    shutil.copytree(DATA / "cosyvoice3-mini", mixed)
    assert not report(mixed)["fail"]
    for part in ("flow", "hift"):
        shutil.copy(DATA / "cosyvoice2-mini" / f"{part}.pt", mixed / f"{part}.pt")
    weights = torch.load(mixed / "llm.pt", weights_only=True)
    weights["llm_decoder.weight"] = weights["llm_decoder.weight"][:-7]
    torch.save(weights, mixed / "llm.rl.pt")
    found = report(mixed)
    assert [line.split()[0] for line in found["fail"]] == ["flow.pt", "hift.pt", "llm.rl.pt"]
    assert all("cannot be used" in line and "does not fit its configuration" in line for line in found["fail"])
    assert "llm_decoder.weight is [6754, 32], expected [6761, 32]" in found["fail"][2]
    assert "llm.rl.pt: LIGHTTTS_LLM_WEIGHTS=rl selects these weights" in found["ok"]


def test_other_large_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published exports are safe to remove; other weights of the llm and unknown files are not called so."""
    folder = tmp_path / "model"
    shutil.copytree(DATA / "cosyvoice3-mini", folder, ignore=shutil.ignore_patterns("*.npz"))
    shutil.copy(folder / "llm.pt", folder / "llm.rl.pt")
    (folder / "vllm").mkdir()
    for name in ("flow.decoder.estimator.fp32.onnx", "speech_tokenizer_v3.batch.onnx", "vllm/model.bin", "mine.bin"):
        (folder / name).write_bytes(b"12345")
    monkeypatch.setattr(checkpoint, "_LARGE", 4)
    lines = report(folder)["ok"]
    removable = next(line for line in lines if "safe to remove" in line)
    assert removable.endswith("flow.decoder.estimator.fp32.onnx, speech_tokenizer_v3.batch.onnx, vllm/model.bin")
    unread = next(line for line in lines if line.startswith("not read by light-tts"))
    assert "mine.bin" in unread
    assert "llm.rl.pt" not in removable + unread
