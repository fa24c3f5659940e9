"""`python -m tests.parity` on folders that are not the mini: other sizes, parts missing, parts damaged."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.parity.__main__ import main
from tests.parity.enlarge import enlarge

DATA = Path(__file__).parents[1] / "data"
MINI = DATA / "cosyvoice2-mini"


def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, str]]:
    """The exit status, and the verdict of each line of the table (the last of those with one name)."""
    status = main([str(folder)])
    lines = [re.split(r"\s{2,}", line) for line in capsys.readouterr().out.splitlines()]
    verdicts = {"pass", "FAIL", "absent", "informative", "skipped"}
    return status, {line[0]: next(cell for cell in line if cell in verdicts) for line in lines if verdicts & set(line)}


def larger(source: Path, target: Path) -> Path:
    """Write an enlarged folder without streamed audio; the flow and the vocoder have streamed arrays of their own."""
    enlarge(source, target)
    arrays = dict(np.load(target / "token2wav.npz"))
    np.savez(
        target / "token2wav.npz", **{name: array for name, array in arrays.items() if name.startswith("nonstream")}
    )
    return target


def test_other_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, verdicts = run(larger(MINI, tmp_path / "larger"), capsys)
    assert status == 0
    assert verdicts["token2wav.npz: nonstream_audio"] == "pass"
    not_passed = {name for name, verdict in verdicts.items() if verdict != "pass"}
    seed77 = {"hift.npz: wav_seed77", "hift.npz: source_seed77"}
    assert not_passed == {"state_dict_shapes.json", "hift.npz: uv"} | seed77
    assert {verdicts[name] for name in seed77} == {"informative"}


def test_other_sizes_of_cosyvoice3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / MINI.name).symlink_to(MINI)  # the audio of its features, which both folders use
    status, verdicts = run(larger(DATA / "cosyvoice3-mini", tmp_path / "larger"), capsys)
    assert status == 0
    compared = [verdict for name, verdict in verdicts.items() if name.startswith(("flow_", "hift.npz: ", "token2wav"))]
    assert compared.count("pass") >= 25
    assert set(compared) <= {"pass", "absent"}


def test_a_smaller_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Optional files and arrays may be missing, and there may be fewer or more cases."""
    folder = tmp_path / "fewer"
    shutil.copytree(MINI, folder)
    features = ("features.npz", "frontend_onnx.npz")  # the second is computed from the first
    for name in ("bistream_a_prompt.npz", "token2wav.npz", "spk2info.pt", *features, "README.md", "config.json"):
        (folder / name).unlink()
    ras = dict(np.load(folder / "ras.npz"))
    kept = {name: array for name, array in ras.items() if name.startswith(("case0", "case3"))}
    twelfth = {name.replace("case3", "case12"): array for name, array in kept.items() if "case3" in name}
    np.savez(folder / "ras.npz", **kept, **twelfth)
    status, verdicts = run(folder, capsys)
    assert status == 0
    assert verdicts["token2wav.npz"] == verdicts["features.npz"] == verdicts["spk2info.pt"] == "absent"
    assert verdicts["ras.npz: case12_ids_seed0to7"] == "pass"
    assert "ras.npz: case1_nucleus_ids" not in verdicts
    assert verdicts["bistream_b_noprompt.npz: call_lengths"] == "pass"


def test_damage_fails_and_spares_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(MINI, folder)
    (folder / "hift.pt").write_bytes((folder / "hift.pt").read_bytes()[:5000])
    (folder / "ras.npz").write_bytes(b"no archive")
    llm = dict(np.load(folder / "llm.npz"))
    llm["logits"][0, 3, 5] += 1e-3
    llm["hidden"] = llm["hidden"][:, :-1]
    np.savez(folder / "llm.npz", **llm)
    status, verdicts = run(folder, capsys)
    assert status == 1
    failed = {name for name, verdict in verdicts.items() if verdict == "FAIL"}
    whole = {
        "hift.pt",
        "hift.npz: source",
        "hift.npz: waveform",
        "hift.npz: stream",
        "ras.npz",
        "token2wav.npz",
        "state_dict_shapes.json",
    }
    assert failed == whole | {"llm.npz: logits", "llm.npz: hidden"}
    assert verdicts["flow_mel.npz: mel_stream_final"] == "pass"


def test_an_unknown_array_is_named_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new"
    slow = ("llm.npz", "flow_mel.npz", "token2wav.npz", "bistream_*", "hift.npz")
    shutil.copytree(MINI, folder, ignore=shutil.ignore_patterns(*slow))
    noise = dict(np.load(folder / "flow_noise.npz"))
    np.savez(folder / "flow_noise.npz", **noise, surprise=np.zeros(3))
    status, verdicts = run(folder, capsys)
    assert status == 1
    assert verdicts["flow_noise.npz: surprise"] == "skipped"
    with (folder / "README.md").open("a", encoding="utf-8") as readme:
        readme.write("surprise [3]: informative only\n")
    status, verdicts = run(folder, capsys)
    assert status == 0
    assert verdicts["flow_noise.npz: surprise"] == "informative"


def test_no_folder_and_an_empty_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
    assert run(tmp_path, capsys)[0] == 1
