"""`light-tts prepare` builds a graph of the embedded voice, and a decode worker uses it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from lighttts.v1 import decode_pb2_grpc
from services.common.pool import open_channel
from services.common.server import ServiceServer
from services.decode.server import DecodeService
from services.decode.settings import DecodeSettings
from tests.integration.test_decode_service import TOKENS, audio_of, responses, start, tokens


def prepare(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from cli.main import main; main()", "prepare", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)


async def spoken(**settings: Any) -> np.ndarray[Any, Any]:
    """The audio of a worker with these settings for the test's voice and tokens."""
    chosen = DecodeSettings(port=0, **settings)
    server = ServiceServer(DecodeService(chosen), chosen)
    try:
        await server.start()
        async with asyncio.timeout(400), open_channel(server.address) as channel:
            return audio_of(await responses(decode_pb2_grpc.DecodeStub(channel), start(), tokens()))
    finally:
        await server.close()


def files(folder: Path) -> dict[str, int]:
    """Modification time of each file."""
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


async def test_a_worker_uses_the_prepared_graph(tmp_path: Path) -> None:
    done = await asyncio.to_thread(prepare, "--backend", "onnx", "--cache-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert [word in done.stderr for word in ("exporting the estimator", "prepared and tested")] == [True, True]
    prepared = files(tmp_path)
    assert [name.endswith(".onnx") for name in prepared] == [True]
    audio = await spoken(decode_backend="onnx", decode_cache_dir=tmp_path)
    assert audio.shape == (len(TOKENS) * 960,)
    assert np.sqrt(np.mean(audio**2)) > 1e-3
    assert files(tmp_path) == prepared


def test_a_graph_that_cannot_be_built_here_is_refused_with_a_reason(tmp_path: Path) -> None:
    done = prepare("--backend", "tensorrt", "--cache-dir", str(tmp_path))
    assert done.returncode == 1
    assert "cannot prepare" in done.stderr
    assert "tensorrt" in done.stderr
