"""Clients of other projects, as processes in a separate environment."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECKS = ROOT / "tests" / "peers"
EXAMPLES = ROOT / "examples"
PROMPT = ROOT / "models" / "tiny" / "prompt_anna.wav"
PYTHON = ROOT / ".tools" / "peers" / "bin" / "python"
WYOMING = ROOT / ".tools" / "wyoming" / "bin" / "python"
NODE_MODULES = ROOT / ".tools" / "node-peers"


def need(*programs: str) -> None:
    """Skip the test, with what to install, if the clients or Debian's programs are missing."""
    if not PYTHON.exists():
        pytest.skip("other people's clients are not installed: make test-system does that")
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


async def run(
    *arguments: str | Path, folder: Path, http: str = "", grpc: str = "", program: str | Path = PYTHON
) -> None:
    """Run the clients' Python, or another program, to its end; on failure show its output."""
    env = {**os.environ, "LIGHTTTS_HTTP": http, "LIGHTTTS_SERVER": grpc}
    process = await asyncio.create_subprocess_exec(
        program, *arguments, cwd=folder, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()
