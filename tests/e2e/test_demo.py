"""The first command of the README, as a user runs it: it speaks, and leaves nothing behind however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import soundfile

DEMO = (sys.executable, "-c", "from cli.main import main; main()", "demo", "--out")


def test_the_demo_speaks_and_stops_everything(tmp_path: Path) -> None:
    wav = tmp_path / "demo.wav"
    demo = subprocess.run([*DEMO, str(wav)], capture_output=True, text=True, timeout=600, check=False)
    assert demo.returncode == 0, demo.stderr
    for figure in ("time to first audio", "real-time factor", "chunks", "decode-"):
        assert figure in demo.stdout
    assert soundfile.info(wav).duration > 1
    assert demo.stderr.count("stopped") == 5


def test_an_interrupted_demo_stops_everything(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [*DEMO, str(tmp_path / "demo.wav")], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    with demo:
        assert demo.stderr is not None
        while " serving " not in demo.stderr.readline():  # the first to be ready, when all have been started
            assert demo.poll() is None
        children = psutil.Process(demo.pid).children()
        demo.send_signal(signal.SIGINT)
        rest = demo.stderr.read()
    assert demo.returncode == 130
    assert "stopped before the end" in rest
    assert len(children) == 5
    assert not [child for child in children if child.is_running()]
    assert not (tmp_path / "demo.wav").exists()
