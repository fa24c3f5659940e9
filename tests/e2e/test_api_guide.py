"""docs/api.md: its programs, its curl commands and the examples that it links run as they stand."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
import wave
from pathlib import Path

import pytest
import soundfile

from cli.local.stack import Stack

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
ROUNDING = 5e-4
"""Largest difference of a sample between two runs, of full scale (docs/architecture.md, "Chunks and hops")."""
PROGRAMS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


async def run_python(program: Path, stack: Stack, folder: Path) -> str:
    """Runs a program in `folder` and returns its output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(program),
        cwd=folder,
        env=os.environ
        | {"LIGHTTTS_SERVER": stack.gateway.address, "PYTHONPATH": f"{ROOT}:{ROOT / 'clients/python/src'}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


def test_it_links_every_example() -> None:
    linked = set(re.findall(r"\]\(\.\./examples/([\w.]+)\)", GUIDE))
    assert linked == {path.name for path in (ROOT / "examples").glob("*.py")}


@pytest.mark.asyncio(loop_scope="session")
async def test_its_programs_and_the_reflection_example_speak_the_same(stack: Stack, tmp_path: Path) -> None:
    assert len(PROGRAMS) == 2
    assert PROGRAMS[0].count("\n") <= 15
    for number, program in enumerate(PROGRAMS):
        pasted = tmp_path / f"pasted{number}.py"
        here = program.replace("127.0.0.1:50050", stack.gateway.address).replace(
            "ws://127.0.0.1:8080", stack.http_url.replace("http", "ws", 1)
        )
        pasted.write_text(here, encoding="utf-8")
        await run_python(pasted, stack, tmp_path)
    await run_python(ROOT / "examples" / "reflection.py", stack, tmp_path)
    with wave.open(str(tmp_path / "hello.wav")) as spoken:
        assert spoken.getnframes() > spoken.getframerate()
    # The same voice, text and seed. How audio is divided into hops depends on the time, and with it the rounding.
    hello, *others = (soundfile.read(tmp_path / f"{name}.wav")[0] for name in ("hello", "reflection", "socket"))
    assert [len(other) for other in others] == [len(hello)] * 2
    assert all(abs(other - hello).max() <= ROUNDING for other in others)


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
    for name, begins in (("speech.mp3", b"ID3"), ("zero_shot.pcm", b""), ("anna2.wav", b"RIFF"), ("batch.json", b"{")):
        made = (tmp_path / name).read_bytes()
        assert made.startswith(begins)
        assert len(made) > 4000, name


@pytest.mark.asyncio(loop_scope="session")
async def test_the_conversation_plays_and_reports_how_much_was_heard(stack: Stack, tmp_path: Path) -> None:
    output = await run_python(ROOT / "examples" / "conversation.py", stack, tmp_path)
    heard = re.search(r"^heard: (.*)$", output, re.MULTILINE)
    assert heard is not None
    assert heard[1].startswith("Good morning, Alice. Welcome to London. ")
    assert not heard[1].endswith("to its end.")
    assert "first audio after" in output
    with wave.open(str(tmp_path / "conversation.wav")) as played:
        assert played.getnframes() > 2 * played.getframerate()
