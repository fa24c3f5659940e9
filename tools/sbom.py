"""The bill of materials of a release (CycloneDX): the Python packages that the images install.

cyclonedx-py lists everything in an environment, development tools included; what the package does not require, with the
extras of the images, is left out. Packages of the images' base are the base's own.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGE = "light-tts"
EXTRAS = ("k8s", "redis", "otel", "models")
"""Those of the images of all services, as in Dockerfiles/build.sh."""


def program() -> str | None:
    """Return the path of cyclonedx-py: that of `make release`, or one of PATH; None if there is none."""
    own = ROOT / ".tools" / "sbom" / "bin" / "cyclonedx-py"
    return str(own) if own.exists() else shutil.which("cyclonedx-py")


def installed(package: str = PACKAGE, extras: Collection[str] = EXTRAS) -> set[str]:
    """Return the names of the packages that `package` with `extras` needs on this machine, itself included."""
    found: set[str] = set()
    waiting = [(canonicalize_name(package), frozenset(extras))]
    seen = set(waiting)
    while waiting:
        name, wanted = waiting.pop()
        try:
            lines = requires(name) or []
        except PackageNotFoundError:  # for another platform
            continue
        found.add(name)
        for requirement in map(Requirement, lines):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *wanted)):
                item = (canonicalize_name(requirement.name), frozenset(requirement.extras))
                if item not in seen:
                    seen.add(item)
                    waiting.append(item)
    return found


def pruned(bill: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return the bill with the components of these names alone, and the dependencies between them."""
    components = [each for each in bill["components"] if canonicalize_name(each["name"]) in names]
    references = {bill["metadata"]["component"]["bom-ref"], *(each["bom-ref"] for each in components)}
    dependencies = [
        {**each, "dependsOn": [reference for reference in each.get("dependsOn", []) if reference in references]}
        for each in bill.get("dependencies", [])
        if each["ref"] in references
    ]
    return {**bill, "components": components, "dependencies": dependencies}


def write_sbom(program: str, path: Path) -> int:
    """Write the bill of materials of this environment; return the number of its components.

    Raises CalledProcessError; its `stderr` says why.
    """
    command = [program, "environment", "--pyproject", str(ROOT / "pyproject.toml"), sys.executable]
    made = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - named by the caller
    bill = pruned(json.loads(made.stdout), installed())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(bill, indent=1) + "\n", encoding="utf-8")
    return len(bill["components"])
