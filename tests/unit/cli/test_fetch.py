"""`light-tts fetch` with a hub on loopback: complete, resumed, damaged and refused downloads."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cli.model.fetch import ATTEMPTS, FetchError, fetch, wait_for
from services.common.checkpoint.model_dir import open_model_dir
from services.common.families import COSYVOICE2, COSYVOICE3
from tests.support.model_hub import ModelHub

MINI = Path(__file__).parents[2] / "data" / "cosyvoice2-mini"
NAMES = ("cosyvoice2.yaml", "campplus.onnx", "speech_tokenizer_v2.onnx", "llm.pt", "flow.pt", "hift.pt", "spk2info.pt")


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModelHub]:
    files = {name: (MINI / name).read_bytes() for name in NAMES}
    tokenizer = MINI / "CosyVoice-BlankEN"
    files |= {f"CosyVoice-BlankEN/{path.name}": path.read_bytes() for path in tokenizer.iterdir()}
    with ModelHub(COSYVOICE2.repository, files) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


@dataclass
class Shown:
    """Records the progress shown to the user."""

    lines: list[str] = field(default_factory=list)
    files: list[tuple[str, int, int]] = field(default_factory=list)
    received: int = 0

    def note(self, line: str) -> None:
        self.lines.append(line)

    def begin(self, name: str, size: int, done: int) -> None:
        self.files.append((name, size, done))

    def advance(self, count: int) -> None:
        self.received += count


def run(directory: Path, repository: str | None = None) -> Shown:
    shown = Shown()
    fetch(COSYVOICE2, directory, shown, repository, sleep=lambda seconds: None)
    return shown


def test_a_complete_checkpoint(hub: ModelHub, tmp_path: Path) -> None:
    shown = run(tmp_path / "model")
    assert open_model_dir(tmp_path / "model").family is COSYVOICE2
    assert (tmp_path / "model" / "llm.pt").read_bytes() == hub.files["llm.pt"]
    assert not (tmp_path / "model" / "CosyVoice-BlankEN" / "model.safetensors").exists()
    assert ("llm.pt", len(hub.files["llm.pt"]), 0) in shown.files
    assert shown.received == sum(size for _, size, _ in shown.files)
    assert "checksums are correct" in shown.lines[-1]
    assert not list(tmp_path.rglob("*.part"))


def test_intact_files_are_not_fetched_again(hub: ModelHub, tmp_path: Path) -> None:
    run(tmp_path)
    hub.sent.clear()
    (tmp_path / "hift.pt").write_bytes(b"damaged")
    same_size = bytearray((tmp_path / "flow.pt").read_bytes())
    same_size[1000] ^= 1
    (tmp_path / "flow.pt").write_bytes(same_size)
    run(tmp_path)
    assert sorted(hub.sent) == ["flow.pt", "hift.pt"]
    assert (tmp_path / "hift.pt").read_bytes() == hub.files["hift.pt"]
    assert (tmp_path / "flow.pt").read_bytes() == hub.files["flow.pt"]


def test_an_interrupted_download_is_resumed(hub: ModelHub, tmp_path: Path) -> None:
    hub.cut_once["llm.pt"] = 300_000
    hub.refuse_after_cut = True
    with pytest.raises(FetchError, match="run the same command again"):
        run(tmp_path)
    hub.down = False
    hub.ranges.clear()
    shown = run(tmp_path)
    assert shown.files == [("llm.pt", len(hub.files["llm.pt"]), 300_000)]
    assert hub.ranges == [("llm.pt", "bytes=300000-")]
    assert (tmp_path / "llm.pt").read_bytes() == hub.files["llm.pt"]


def test_a_cut_connection_is_resumed_within_one_run(hub: ModelHub, tmp_path: Path) -> None:
    hub.cut_once["flow.pt"] = 100_000
    run(tmp_path)
    assert hub.ranges == [("flow.pt", "bytes=100000-")]
    assert (tmp_path / "flow.pt").read_bytes() == hub.files["flow.pt"]


def test_a_wrong_checksum_is_refused(hub: ModelHub, tmp_path: Path) -> None:
    hub.corrupt.add("campplus.onnx")
    with pytest.raises(FetchError, match=r"campplus\.onnx is damaged"):
        run(tmp_path)
    assert not (tmp_path / "campplus.onnx").exists()


def test_a_full_disk_is_seen_before_the_download(
    hub: ModelHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(FetchError, match=r"0\.0 GB of free disk"):
        run(tmp_path)
    assert not hub.sent


def test_a_repository_without_the_files(hub: ModelHub, tmp_path: Path) -> None:
    del hub.files["llm.pt"]
    with pytest.raises(FetchError, match=r"lacks llm\.pt"):
        run(tmp_path)


def test_no_such_repository_and_no_hub(hub: ModelHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FetchError, match=r"someone/nothing .* does not exist"):
        run(tmp_path, "someone/nothing")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(FetchError, match="HF_ENDPOINT"):
        run(tmp_path)


def test_another_process_can_be_waited_for(tmp_path: Path) -> None:
    shown = Shown()
    steps: Iterator[Callable[[], object]] = iter(
        [lambda: (tmp_path / "cosyvoice2.yaml").write_text("half"), lambda: run(tmp_path)]
    )

    def sleep(seconds: float) -> None:
        next(steps)()

    wait_for(tmp_path, 60, shown, sleep=sleep)
    assert len(shown.lines) == 2
    assert "waiting for the model" in shown.lines[0]


def test_waiting_ends_with_the_name_of_the_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"no model after 10 s: .*cosyvoice"):
        wait_for(tmp_path, 10, Shown(), sleep=lambda seconds: None)


def test_other_weights_of_the_llm_are_fetched_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    third = MINI.parent / "cosyvoice3-mini"
    files = {name: (third / name).read_bytes() for name in (*COSYVOICE3.required, COSYVOICE3.yaml)}
    tokenizer = third / "CosyVoice-BlankEN"
    files |= {f"CosyVoice-BlankEN/{path.name}": path.read_bytes() for path in tokenizer.iterdir()}
    with ModelHub(COSYVOICE3.repository, files | {"llm.rl.pt": files["llm.pt"][::-1]}) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        shown = Shown()
        fetch(COSYVOICE3, tmp_path, shown, sleep=lambda seconds: None)
        assert open_model_dir(tmp_path).family is COSYVOICE3
        assert not (tmp_path / "llm.rl.pt").exists()
        wait_for(tmp_path, 0, shown)
        with pytest.raises(FetchError, match=r"lacks llm\.rl\.pt"):
            wait_for(tmp_path, 0, shown, variants=("rl",))
        fetch(COSYVOICE3, tmp_path, shown, sleep=lambda seconds: None, variants=("rl",))
        wait_for(tmp_path, 0, shown, variants=("rl",))
    assert (tmp_path / "llm.rl.pt").read_bytes() == files["llm.pt"][::-1]


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [("HF_ENDPOINT", "http://hub:port", "which is not a URL"), ("HF_TOKEN", "hf_…", "HF_TOKEN has characters")],
)
def test_a_hub_or_a_token_that_cannot_be_used_is_named(
    variable: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(FetchError, match=message):
        run(tmp_path)


def test_a_hub_that_sends_empty_files_is_given_up(hub: ModelHub, tmp_path: Path) -> None:
    hub.empty.add("flow.pt")
    with pytest.raises(FetchError, match=r"the answer for flow\.pt has no content"):
        run(tmp_path)
    assert hub.sent.count("flow.pt") == ATTEMPTS
