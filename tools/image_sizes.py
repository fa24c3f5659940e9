"""The size of the CUDA images, estimated from installed packages: `python -m tools.image_sizes [--python PYTHON]`.

PYTHON is the interpreter of an environment with the packages of Dockerfiles/constraints-cuda.txt, such as the one that
`make gpu-env` makes. Prints a table of the layers that Dockerfiles/ adds to its base image, and where the environment
differs from the file. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "Dockerfiles" / "constraints-cuda.txt"
ENVIRONMENT = ROOT / ".tools" / "gpu-env" / "bin" / "python"
CODE = ("cli", "gateway", "lighttts", "models/tiny", "protos", "services")
"""Folders of the checkout in decode's image, which has the most."""
COMPILER_BYTES = 193 * 2**20
"""gcc and libc6-dev of Debian 12 with what they need, by the sizes that their packages state."""
PARTS: Mapping[str, Callable[[str], bool]] = {
    "torch": lambda name: name == "torch",
    "CUDA libraries": lambda name: name.startswith(("nvidia-", "cuda-")),
    "triton": lambda name: name == "triton",
    "onnxruntime-gpu": lambda name: name == "onnxruntime-gpu",
    "other packages": lambda name: True,
}
"""Parts of the layer with Python's packages; a package belongs to the first that its name fits."""
REPLACED = "onnxruntime"
"""A package that the images replace by that of `onnxruntime-gpu`, in the same folder."""
LIST = """
import importlib.metadata, json, sys
found = {}
for one in importlib.metadata.distributions():
    files = [one.locate_file(file) for file in one.files or ()]
    size = sum(file.stat().st_size for file in files if file.is_file())
    found.setdefault(one.metadata["Name"], [one.version, size])  # the first one is the one that is imported
json.dump(found, sys.stdout)
"""
"""Prints every installed package with its version and the bytes of its files."""


@dataclass(frozen=True)
class Installed:
    """A package of an environment."""

    version: str
    size: int
    """Bytes of its files."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.image_sizes", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", type=Path, default=ENVIRONMENT, help="interpreter of the environment to measure")
    python = parser.parse_args().python
    if not python.exists():
        print(f"{python} does not exist; `make gpu-env` makes the environment, or name one with --python")  # noqa: T201
        return 2
    found, wanted = installed(python), constraints(CONSTRAINTS)
    for line in (*table(found, wanted), "", *differences(found, wanted)):
        print(line)  # noqa: T201
    return 0


def installed(python: Path) -> dict[str, Installed]:
    """Return the packages of an interpreter's environment by their normal names."""
    done = subprocess.run([python, "-c", LIST], capture_output=True, text=True, check=True)  # noqa: S603 - the user's
    return {canonicalize_name(name): Installed(*values) for name, values in json.loads(done.stdout).items()}


def constraints(path: Path) -> dict[str, str]:
    """Return the versions of a constraints file by normal names."""
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines) if name}


def table(found: Mapping[str, Installed], wanted: Mapping[str, str]) -> Iterator[str]:
    """Yield a Markdown table of the layers; packages that the images do not have are left out."""
    yield "| layer | part | packages | MB |"
    yield "|---|---|---|---|"
    yield f"| compiler | gcc and libc6-dev, for Triton | | {_mb(COMPILER_BYTES)} |"
    total, rest = COMPILER_BYTES, {name: one for name, one in found.items() if name in wanted and name != REPLACED}
    for part, fits in PARTS.items():
        sizes = [rest.pop(name).size for name in list(rest) if fits(name)]
        total += sum(sizes)
        yield f"| packages | {part} | {len(sizes)} | {_mb(sum(sizes))} |"
    code = sum(path.stat().st_size for folder in CODE for path in (ROOT / folder).rglob("*") if path.is_file())
    yield f"| code | services, gateway, commands, the embedded voice | | {_mb(code)} |"
    yield f"| all | without the base image | | {_mb(total + code)} |"


def differences(found: Mapping[str, Installed], wanted: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each package whose version is not that of the images, and for those that are missing."""
    for name, version in sorted(wanted.items()):
        if name in found and found[name].version != version:
            yield f"{name}: {found[name].version} here, {version} in the images"
    missing = sorted(set(wanted) - set(found))
    if missing:
        yield f"not in this environment: {', '.join(missing)}"


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f}"


if __name__ == "__main__":
    sys.exit(main())
