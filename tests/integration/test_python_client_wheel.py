"""The wheel of the Python client: built without a network, it has typed stubs of its own and needs no checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")
SCRIPT = """
import lighttts_client, lighttts.v1.tts_pb2 as tts
print(lighttts_client.__file__, tts.__file__, sep="\\n")
print(lighttts_client.SynthesisConfig(voice_name="anna", word_times=True, seed=7))
"""


def run(*command: str | Path, folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.system
def test_the_wheel_is_built_installed_and_imported(tmp_path: Path) -> None:
    package = tmp_path / "checkout" / "clients" / "python"  # a build leaves files
    shutil.copytree(ROOT / "clients" / "python", package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "protos", tmp_path / "checkout" / "protos")
    run(*PIP, "wheel", "--no-build-isolation", "--no-deps", "-w", tmp_path, package, folder=tmp_path)
    (wheel,) = tmp_path.glob("light_tts_client-*.whl")
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    stubs = {f"lighttts/v1/{name}" for name in ("tts_pb2.py", "tts_pb2.pyi", "tts_pb2_grpc.py", "audio_pb2.py")}
    assert names >= stubs | {"lighttts/py.typed", "lighttts_client/py.typed", "lighttts_client/aio.py"}
    assert "Requires-Dist: grpcio>=" in metadata
    assert "Requires-Dist: protobuf" in metadata
    site = tmp_path / "site"
    run(*PIP, "install", "--no-deps", "--no-index", "--target", site, wheel, folder=tmp_path)
    start = f"import sys; sys.path.insert(0, {str(site)!r})\n"
    client, protos, config = run(sys.executable, "-c", start + SCRIPT, folder=tmp_path).split("\n", 2)
    assert Path(client).is_relative_to(site)
    assert Path(protos).is_relative_to(site)
    assert "word_times: true" in config
