"""Generates the stubs of the public protos into the wheel, and copies the protos into the sdist."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
PACKAGE = Path("lighttts") / "v1"


def protos() -> tuple[Path, list[Path]]:
    """Return the folder of the protos and their paths in it: in an sdist its own copy, in a checkout the server's."""
    root = next(folder for folder in (HERE / "protos", HERE.parents[1] / "protos") if folder.is_dir())
    return root, sorted(path.relative_to(root) for path in (root / PACKAGE).glob("*.proto"))


class BuildWithStubs(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:  # in a checkout, where `make protos` generates them
            return
        root, names = protos()
        out = self.build_lib
        options = [f"-I{root}", f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}"]
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *options, *names], check=True)  # noqa: S603
        (Path(out) / "lighttts" / "py.typed").touch()


class SdistWithProtos(sdist):
    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        root, names = protos()
        for name in names:
            target = Path(base_dir) / "protos" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, target)


def dependencies() -> list[str]:
    """Return what the stubs need: the versions of grpcio and protobuf that the generator itself requires."""
    required = metadata.requires("grpcio-tools") or []
    return [need for need in required if need.startswith(("grpcio", "protobuf"))] + ["googleapis-common-protos>=1.65"]


setup(cmdclass={"build_py": BuildWithStubs, "sdist": SdistWithProtos}, install_requires=dependencies())
