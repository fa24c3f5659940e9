"""`light-tts verify DIR`: the embedded voice passes, and speech that is none is refused with its reasons."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cli.model import verify as module
from cli.model.calibrate import main as calibrate
from cli.model.verify import Measured, main
from services.common.settings import EMBEDDED_MODEL

DATA = Path(__file__).parents[2] / "data"
GOOD = Measured("Things are right again now.", "anna", 1.6, True, -22.0, 0.4, 0.1, 1e-5, True)


def verified(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *options: str
) -> tuple[int, dict[str, object]]:
    monkeypatch.setattr(module, "SPOKEN", (8,))
    monkeypatch.setattr(module, "MAX_SECONDS", 3.0)
    status = main([str(directory), *options, "--report", str(tmp_path / "report.json")])
    return status, json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))


def test_the_embedded_voice_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, report = verified(EMBEDDED_MODEL, tmp_path, monkeypatch)
    assert (status, report["passed"]) == (0, True)
    spoken = [finding["measured"] for finding in report["findings"] if "measured" in finding]  # type: ignore[attr-defined]
    assert [measured["voice"] for measured in spoken] == ["anna", "hugo"]  # each recording by one of its names
    assert all(measured["recognised"] and measured["stream_difference"] < 1e-4 for measured in spoken)


def test_random_weights_are_loaded_and_speak_and_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The third family's mini: its streams are exact, and what it speaks is noise."""
    folder = tmp_path / "third"
    shutil.copytree(DATA / "cosyvoice3-mini", folder, ignore=shutil.ignore_patterns("*.npz"))
    (folder / "light-tts.yaml").write_text("name: third\nlanguages: [en]\n", encoding="utf-8")
    status, report = verified(folder, tmp_path, monkeypatch, "--voice", "anna")
    assert (status, report["passed"]) == (1, False)
    spoken = [finding["measured"] for finding in report["findings"] if "measured" in finding]  # type: ignore[attr-defined]
    assert len(spoken) == 1
    assert all(measured["stream_difference"] < 1e-3 and not measured["recognised"] for measured in spoken)
    assert "the recogniser did not recognise it" in capsys.readouterr().out


def test_a_directory_that_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, report = verified(tmp_path / "nowhere", tmp_path, monkeypatch)
    assert (status, report["passed"]) == (1, False)


def test_what_is_implausible() -> None:
    assert not list(GOOD.problems())
    assert not list(replace(GOOD, recognised=None).problems())
    bad = {
        "no plausible length": {"seconds": 9.0},
        "a length limit": {"ended": False},
        "dBFS": {"level_db": -60.0},
        "silent": {"silent": 0.9},
        "streamed audio differs": {"stream_difference": 0.01},
        "did not recognise": {"recognised": False},
        "not finite": {"peak": float("nan")},
    }
    for words, changes in bad.items():
        (problem,) = replace(GOOD, **changes).problems()  # type: ignore[arg-type]
        assert words in problem


def test_a_report_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere"), "--report", str(tmp_path / "no" / "report.json")]) == 1
    assert "cannot write the report" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["meta:x", "cuda:99"], ids=["no-device", "absent"])
def test_a_device_that_cannot_be_used_is_named_and_not_replaced(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, report = verified(EMBEDDED_MODEL, tmp_path, monkeypatch, "--device", device)
    assert (status, report["passed"]) == (1, False)
    assert f"--device {device} cannot be used here" in capsys.readouterr().out


def test_calibration_on_an_absent_device_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate([str(EMBEDDED_MODEL), "--dry-run", "--device", "cuda:99"]) == 1
    assert "--device cuda:99 cannot be used here" in capsys.readouterr().err
