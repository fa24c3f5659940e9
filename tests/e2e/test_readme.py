"""The README's commands against a running stack: what a newcomer types must work as it stands there."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import soundfile

from cli.local.stack import Stack

ROOT = Path(__file__).parents[2]


def commands(start: str) -> list[str]:
    """The README's commands that begin with `start`, continuation lines joined."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if re.match(rf"    {re.escape(start)}", line)]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like the user's checkout; what commands write there is gone afterwards."""
    (tmp_path / "models").symlink_to(ROOT / "models")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


async def shell(command: str, folder: Path, stack: Stack) -> str:
    """Runs a command and returns what it wrote."""
    env = {**os.environ, "LIGHTTTS_SERVER": stack.gateway.address}
    process = await asyncio.create_subprocess_exec(
        "bash", "-euc", command, cwd=folder, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, f"{command}\n{output.decode()}"
    return output.decode()


@pytest.mark.asyncio(loop_scope="session")
async def test_light_tts_commands(stack: Stack, checkout: Path) -> None:
    found = commands(".venv/bin/light-tts")
    assert len(found) >= 4
    for command in found:
        await shell(command, checkout, stack)
    for name in ("hello.wav", "out.wav"):
        assert soundfile.info(checkout / name).duration > 0.5


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl_commands(stack: Stack, checkout: Path) -> None:
    found = commands("curl")
    assert found
    for command in found:
        await shell(command.replace("http://127.0.0.1:8080", stack.http_url), checkout, stack)
    assert (checkout / "hello.pcm").stat().st_size > 2 * 24000
