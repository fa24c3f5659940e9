"""The report's judges, figures and pictures."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from training.codes import Codes
from training.networks.flow import FlowTrainer
from training.report.judges import leading_silence
from training.report.measure import Measured, Sample
from training.report.page import lines, write_page
from training.report.pictures import curve, write_png
from training.report.stages import mel_of, prompt_for
from training.report.words import spelled, word_errors
from training.sizes import flow_config
from training.store import RATES, Store, Utterance, write_shard

SAMPLE = Sample("Good <b> day.", "anna", "01_anna.wav", 2.0, 0.3, 0.01, True, "good day", 1, 3, None, True)


@pytest.mark.parametrize(
    ("wanted", "heard", "errors"),
    [("a b c", "a b c", 0), ("a b c", "a x c", 1), ("a b c", "a c", 1), ("a b", "a b c d", 2), ("a b", "", 2)],
)
def test_word_errors(wanted: str, heard: str, errors: int) -> None:
    assert word_errors(wanted, heard) == errors


def test_texts_and_results_are_spelled_alike() -> None:
    assert spelled("Well-known: O'Neil, the 2nd!") == spelled("well known o'neil(2) the nd")


def test_leading_silence() -> None:
    sound = np.concatenate((np.full(2400, 1e-4), np.full(4800, 0.3))).astype(np.float32)
    assert leading_silence(sound, 24000) == pytest.approx(0.1)
    assert leading_silence(sound[2400:], 24000) == 0
    assert leading_silence(np.zeros(2400, dtype=np.float32), 24000) == pytest.approx(0.1)


def test_the_figures_of_a_report() -> None:
    other = Sample("No.", "hugo", "02_hugo.wav", 1.0, 0.5, 0.03, False, "", 1, 1, None, True)
    summary = Measured((SAMPLE, other), 0.25, "models/x").summary()
    assert summary["forced choice"] == 1
    assert summary["open word error"] == pytest.approx(2 / 4)
    assert summary["first audio p50"] == pytest.approx(0.4)
    printed = lines(summary)
    assert "DNSMOS overall: not measured (target ≥ 3.2)" in printed
    assert "work per second: 0.250 (target ≤ 0.20)" in printed


def test_the_page_shows_samples_and_pictures(tmp_path: Path) -> None:
    soundfile.write(tmp_path / SAMPLE.file, np.random.default_rng(0).normal(0, 0.1, 24000), 24000)
    path = write_page(Measured((SAMPLE,), 0.2, "models/x"), {"flow": [(1, 2.0), (5, 1.0)]}, tmp_path, "a < b")
    page = path.read_text(encoding="utf-8")
    assert "Good &lt;b&gt; day." in page
    assert "a &lt; b" in page
    assert 'src="01_anna.wav"' in page
    assert "flow: 2 → 1, 5 steps" in page
    assert (tmp_path / "01_anna.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_holds_its_pixels(tmp_path: Path) -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    write_png(pixels, tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    assert struct.unpack(">II", data[16:24]) == (3, 2)
    begin = data.index(b"IDAT") + 4
    rows = zlib.decompress(data[begin : data.index(b"IEND") - 8])
    assert rows == b"\0" + pixels[0].tobytes() + b"\0" + pixels[1].tobytes()


def test_a_curve_of_one_point_is_left_out() -> None:
    assert curve([(1, 1.0)], "x") == ""


def test_the_prompt_of_a_stage_is_another_utterance_of_the_speaker(tmp_path: Path) -> None:
    """Long enough for a prompt, and no longer."""
    said = [(0, 120), (1, 120), (0, 40), (0, 200), (0, 120)]
    utterances = [
        Utterance(number, "A day.", speaker, ((0, 1),), frames) for number, (speaker, frames) in enumerate(said)
    ]
    rows = {name: [np.zeros(rate * one.frames) for one in utterances] for name, rate in RATES.items()}
    write_shard(tmp_path / "00000", utterances, rows)
    assert prompt_for(Store(tmp_path), 0) == 4
    with pytest.raises(ValueError, match="speaker 1 has no other utterance"):
        prompt_for(Store(tmp_path), 1)


@pytest.mark.parametrize("steps", [2, 5])
def test_a_flow_speaks_the_tokens_after_the_prompt(steps: int) -> None:
    torch.manual_seed(0)
    net = FlowTrainer(flow_config()).eval()
    codes = Codes([np.arange(6), np.arange(10)], np.ones((2, 192), dtype=np.float32), [])
    prompt = np.ones((20, 80), dtype=np.float32)
    mel = mel_of(net, codes, 0, 1, prompt, steps)
    assert mel.shape == (12, 80)
    assert torch.isfinite(mel).all()
    assert not torch.allclose(mel, mel_of(net, codes, 0, 1, 2 * prompt, steps))
