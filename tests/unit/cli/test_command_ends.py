"""How a command ends that Ctrl-C or a full disk interrupts, as its user sees it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

MAIN = "from cli.main import main; main()"


def test_ctrl_c_during_the_imports_ends_a_command_without_a_traceback() -> None:
    """Whether or not the tests themselves run in the background, where shells let processes ignore Ctrl-C."""
    program = f"""
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
class Slow:
    def find_spec(self, name, path, target=None):
        if name == "typer":
            print("imports", flush=True)
            time.sleep(60)
sys.meta_path.insert(0, Slow())
{MAIN}
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "imports\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert (process.returncode, errors) == (130, "")


def test_output_that_a_full_disk_refuses_is_one_line_of_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", MAIN, "--version"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (1, "error: the output cannot be written: No space left on device\n")
