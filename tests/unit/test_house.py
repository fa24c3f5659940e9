"""The rules that keep the house in order (docs/architecture.md), held by reading the code."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICES = ("encode", "llm", "decode")
LONGEST_FILE = 400
CODE = ("services", "gateway", "cli", "tools", "tests", "benchmarks")

ENGINE_FOLDERS = {"llm": ("engine", "model"), "decode": ("engine", "estimators", "flow", "vocoder")}
"""Everything else in a service translates between gRPC or settings and its engine."""
ENGINE_MAY_IMPORT = {"torch", "triton", "numpy", "onnxruntime"} | {
    f"services.common.{name}"
    for name in ("checkpoint.model_dir", "checkpoint.weights", "engine.precision", "engine.thread")
}
"""Beside the standard library and the service's own modules. Triton comes with torch's CUDA builds: kernels use it."""


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every module a file imports, wherever in the file; relative imports are resolved."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            yield ".".join(part for part in (base, node.module) if part)


def belongs_to(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("service", [*SERVICES, "gateway"])
def test_services_know_no_other_service(service: str) -> None:
    own = "gateway" if service == "gateway" else f"services.{service}"
    others = {f"services.{name}" for name in SERVICES} | {"gateway", "cli"}
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in python_files(own.replace(".", "/"))
        for module in imports(path)
        if any(belongs_to(module, other) for other in others - {own})
    ]
    assert not wrong


def test_the_common_ground_knows_no_service() -> None:
    rooms = [f"services.{name}" for name in SERVICES] + ["gateway", "cli"]
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in python_files("services/common")
        for module in imports(path)
        if any(belongs_to(module, room) for room in rooms)
    ]
    assert not wrong


@pytest.mark.parametrize("service", ["llm", "decode"])
def test_engines_import_nothing_but_torch_and_numpy(service: str) -> None:
    own = f"services.{service}"
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in python_files(*(f"services/{service}/{folder}" for folder in ENGINE_FOLDERS[service]))
        for module in imports(path)
        if not belongs_to(module, own)
        and module.split(".")[0] not in sys.stdlib_module_names
        and not any(belongs_to(module, allowed) for allowed in ENGINE_MAY_IMPORT)
    ]
    assert not wrong


def test_no_file_is_too_long() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in python_files(*CODE)}
    assert not [f"{path.relative_to(ROOT)}: {lines}" for path, lines in lengths.items() if lines > LONGEST_FILE]


def test_the_gateway_needs_no_torch() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in python_files("gateway")
        if path.stem != "__main__"
    ]
    script = (
        "import sys, importlib\nsys.modules['torch'] = None\nfor name in sys.argv[1:]: importlib.import_module(name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *modules], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_generated_code_is_not_committed() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "lighttts"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert listed.stdout == ""
