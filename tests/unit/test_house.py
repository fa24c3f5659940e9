"""The rules that keep the house in order (docs/architecture.md), held by reading the code."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICES = ("encode", "llm", "decode")
LONGEST_FILE = 400
LARGEST_FOLDER = 14
CLIENT = "clients/python/src"
SHIPPED = ("services", "gateway", "cli", CLIENT)
CODE = ("services", "gateway", "cli", "clients", "tools", "tests", "benchmarks", "training")

ENGINE_FOLDERS = {"llm": ("alignment", "engine", "model"), "decode": ("engine", "estimators", "flow", "vocoder")}
"""Everything else in a service translates between gRPC or settings and its engine."""
ENGINE_MAY_IMPORT = {"torch", "triton", "numpy", "onnx", "onnxruntime"} | {
    f"services.common.{name}"
    for name in (
        "checkpoint.chunk_plan",
        "checkpoint.flow_config",
        "checkpoint.model_dir",
        "checkpoint.vocoder_config",
        "checkpoint.weights",
        "engine.memory",
        "engine.places",
        "engine.precision",
        "engine.shell",
        "engine.thread",
    )
}
"""In addition to the standard library and the service's own modules. Triton is a part of torch's CUDA builds."""


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


def test_the_client_imports_nothing_of_the_server() -> None:
    allowed = {"grpc", "google", "lighttts", "lighttts_client"} | sys.stdlib_module_names
    found = {module for path in python_files(CLIENT) for module in imports(path)}
    assert not {module for module in found if module.split(".")[0] not in allowed}


def test_the_engine_shell_imports_the_standard_library_alone() -> None:
    modules = imports(ROOT / "services" / "common" / "engine" / "shell.py")
    assert not [module for module in modules if module.split(".")[0] not in sys.stdlib_module_names]


def test_no_file_is_too_long() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in python_files(*CODE)}
    assert not [f"{path.relative_to(ROOT)}: {lines}" for path, lines in lengths.items() if lines > LONGEST_FILE]


def test_no_folder_holds_too_many_modules() -> None:
    """`__init__` and `__main__` are no choices of a reader who looks for a place."""
    paths = python_files(*SHIPPED, "tools", "training")
    modules = Counter(path.parent for path in paths if not path.stem.startswith("__"))
    assert not {str(folder.relative_to(ROOT)): n for folder, n in modules.items() if n > LARGEST_FOLDER}


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports under TYPE_CHECKING and inside functions count: they hide a circle, they do not remove it."""
    modules = {module_name(path): path for path in python_files(*SHIPPED, "tools", "training")}
    graph = {
        name: {known for module in imported_names(path) if (known := closest(module, modules)) and known != name}
        for name, path in modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def module_name(path: Path) -> str:
    root = ROOT / CLIENT if path.is_relative_to(ROOT / CLIENT) else ROOT
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def imported_names(path: Path) -> Iterator[str]:
    """As `imports`, with the imported names, which may be modules."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def closest(name: str, modules: Mapping[str, Path]) -> str | None:
    """The module that `name` is, or the one that defines it; None for modules that are not ours.

    A package is not the module of the names that it imports from its own modules.
    """
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


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
        [sys.executable, "-c", script, *modules], cwd=ROOT, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr


def test_what_engines_share_runs_on_a_bare_gpu_machine() -> None:
    modules = [module_name(path) for path in python_files("services/common/engine")]
    script = (
        "import sys, importlib\n"
        "sys.modules |= dict.fromkeys(('grpc', 'structlog', 'pydantic', 'prometheus_client'))\n"
        "for name in sys.argv[1:]: importlib.import_module(name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *modules], cwd=ROOT, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr


def test_generated_code_is_not_committed() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "lighttts"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert listed.stdout == ""
