"""docs/api.md: its programs are the files in examples/, its curl commands work as they stand."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
import wave
from pathlib import Path

import pytest

from cli.local.stack import Stack

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"`examples/([\w.]+)`:\n\n```python\n(.*?)```", GUIDE, re.DOTALL)


def test_the_programs_shown_are_the_examples() -> None:
    assert len(SHOWN) >= 5
    for name, program in SHOWN:
        assert program == (ROOT / "examples" / name).read_text(encoding="utf-8"), name


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_its_curl_commands_work(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models")
    commands = re.findall(r"^    (curl .*)$", GUIDE, re.MULTILINE)
    assert len(commands) >= 6
    script = "\n".join(commands).replace("http://127.0.0.1:8080", stack.http_url)
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-euc",
        script,
        cwd=tmp_path,
        env=os.environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    for name, begins in (("speech.mp3", b"\xff"), ("zero_shot.pcm", b""), ("slt2.wav", b"RIFF"), ("batch.json", b"{")):
        made = (tmp_path / name).read_bytes()
        assert made.startswith(begins)
        assert len(made) > 4000, name


@pytest.mark.asyncio(loop_scope="session")
async def test_the_conversation_plays_and_knows_what_its_caller_heard(stack: Stack, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "examples" / "conversation.py"),
        cwd=tmp_path,
        env=os.environ | {"LIGHTTTS_SERVER": stack.gateway.address, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    heard = re.search(r"^heard: (.*)$", output.decode(), re.MULTILINE)
    assert heard is not None
    assert heard[1].startswith("Good morning, Alice. Welcome to London. ")
    assert not heard[1].endswith("to its end.")
    assert "first audio after" in output.decode()
    with wave.open(str(tmp_path / "conversation.wav")) as played:
        assert played.getnframes() > 2 * played.getframerate()
