"""`python -m tools.release`: publishes images and chart of the version in pyproject.toml as OCI artifacts.

A dry run pushes the chart into a registry of its own on this machine (Debian's docker-registry), reads it back, and
renders it. See `make release`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tools import sbom
from tools.chart.documented import values_text
from tools.versions import package_version

ROOT = Path(__file__).parents[1]
SERVICES = ("encode", "llm", "decode", "gateway", "single")
VARIANTS = ("cpu", "cuda")
START_SECONDS = 20.0


class ReleaseError(Exception):
    """The release cannot be made; the message says what to do."""


@dataclass(frozen=True)
class Target:
    """Where a release goes."""

    images: str
    """Registry and path of the images: docker.io/light-tts."""
    charts: str
    """Registry and path of the chart: oci://registry-1.docker.io/light-tts."""
    plain_http: bool = False

    @property
    def helm_flags(self) -> list[str]:
        return ["--plain-http"] if self.plain_http else []


def check(wanted: str, *, dry_run: bool) -> str:
    """Return the version to release. Raises ReleaseError if the tree is not ready for it."""
    version = package_version()
    if wanted not in ("", version):
        raise ReleaseError(
            f"VERSION is {wanted}, but pyproject.toml has {version}: change it there, run `make format`, and commit"
        )
    if f"\n## {version}\n" not in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"):
        raise ReleaseError(f"CHANGELOG.md has no section {version}: rename *Unreleased*")
    if "\n### Upgrading\n" not in _section(version):
        raise ReleaseError(f"the section {version} of CHANGELOG.md has no notes on upgrading: add *### Upgrading*")
    if not (ROOT / "tests" / "data" / "released_protos" / version).is_dir():
        raise ReleaseError(f"the protos of {version} are not kept: run `make keep-protos`")
    if not dry_run and _run("git", "status", "--porcelain", "--untracked-files=no"):
        raise ReleaseError("the tree has changes that are not committed")
    return version


def _section(version: str) -> str:
    """Return what CHANGELOG.md says about a version."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    return text.partition(f"\n## {version}\n")[2].partition("\n## ")[0]


def stage_chart(images: str, folder: Path) -> Path:
    """Return a copy of the chart whose images are those of the release."""
    registry, _, path = images.partition("/")
    if not path:
        raise ReleaseError(f"IMAGES is {images}; it must be a registry and a path: docker.io/light-tts")
    chart = folder / "light-tts"
    shutil.copytree(ROOT / "helm", chart)
    values = yaml.safe_load((chart / "values.yaml").read_text(encoding="utf-8"))
    for service in SERVICES:
        image = values[service]["image"]
        image["registry"] = registry
        image["repository"] = f"{path}/{image['repository'].rpartition('/')[2]}"
    (chart / "values.yaml").write_text(values_text(values), encoding="utf-8")
    metadata = (chart / "Chart.yaml").read_text(encoding="utf-8")
    (chart / "Chart.yaml").write_text(metadata.replace("docker.io/light-tts/", f"{images}/"), encoding="utf-8")
    return chart


def publish_chart(helm: str, chart: Path, target: Target, version: str, out: Path) -> str:
    """Package and push the chart; return its reference with digest."""
    out.mkdir(parents=True, exist_ok=True)
    _run(helm, "package", str(chart), "--destination", str(out))
    package = out / f"light-tts-{version}.tgz"
    said = _run(helm, "push", str(package), target.charts, *target.helm_flags, both=True)
    digest = next(line.split()[-1] for line in said.splitlines() if line.startswith("Digest:"))
    return f"{target.charts.removeprefix('oci://')}/light-tts@{digest}"


def rendered_images(helm: str, target: Target, version: str) -> set[str]:
    """Return the images of the published chart, rendered with every values file of the chart."""
    arguments = [f"{target.charts}/light-tts", "--version", version, *target.helm_flags]
    with tempfile.TemporaryDirectory() as folder:
        _run(helm, "pull", *arguments, "--untar", "--untardir", folder)
        found: set[str] = set()
        for profile in sorted((Path(folder) / "light-tts").glob("values*.yaml")):
            text = _run(helm, "template", "light-tts", *arguments, "--values", str(profile))
            for item in yaml.safe_load_all(text):
                found |= set(_images(item))
        return found


def _images(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("image"), str):
            yield node["image"]
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from _images(item)


def published_images(images: str, version: str) -> set[str]:
    """Return the names that `Dockerfiles/build.sh push` pushes."""
    services = [f"{service}:{version}-{variant}" for service in ("encode", "llm", "decode") for variant in VARIANTS]
    return {f"{images}/light-tts-{name}" for name in (f"gateway:{version}", *services)}


def publish_images(target: Target, version: str) -> None:
    """Build and push the images of all variants."""
    environment = {**os.environ, "IMAGES": target.images, "VERSION": version}
    for variant in VARIANTS:
        for action in ("build", "push"):
            subprocess.run([ROOT / "Dockerfiles" / "build.sh", action, variant], check=True, env=environment)  # noqa: S603 - ours


def sign(references: Sequence[str], bill: Path) -> None:
    """Sign images and chart without keys, by the identity of the workflow, and attach the bill of materials."""
    for reference in references:
        _run("cosign", "sign", "--yes", "--recursive", reference)  # each platform's image too
        _run("cosign", "attest", "--yes", "--type", "cyclonedx", "--predicate", str(bill), reference)


def make_sbom(version: str, out: Path) -> Path:
    """Write the bill of materials, and say how much it lists. Raises ReleaseError."""
    program = sbom.program()
    if program is None:
        raise ReleaseError("cyclonedx-py is missing: run this by `make release`, or `pipx install cyclonedx-bom`")
    path = out / f"light-tts-{version}.cdx.json"
    try:
        count = sbom.write_sbom(program, path)
    except subprocess.CalledProcessError as error:
        raise ReleaseError(f"{program} failed:\n{error.stderr}") from error
    _say(f"bill of materials: {path}, {count} packages")
    return path


@contextlib.contextmanager
def local_registry() -> Iterator[str]:
    """Run a registry on loopback, empty and only for the time of the block; yield its host and port."""
    program = shutil.which("docker-registry")
    if program is None:
        raise ReleaseError("a dry run needs the Debian package docker-registry")
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yml"
        storage = {"filesystem": {"rootdirectory": f"{folder}/registry"}}
        content: Mapping[str, Any] = {"version": 0.1, "storage": storage, "http": {"addr": address}}
        config.write_text(yaml.safe_dump({**content, "log": {"level": "error"}}), encoding="utf-8")
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen([program, "serve", str(config)], stdout=log, stderr=log)  # noqa: S603 - installed
        try:
            _answers(process, address)
            yield address
        finally:
            process.terminate()
            process.wait()


def _answers(process: subprocess.Popen[bytes], address: str) -> None:
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(f"http://{address}/v2/", timeout=2)
            return
        time.sleep(0.05)
    raise ReleaseError("docker-registry did not start")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _run(*command: str, both: bool = False) -> str:
    """Return the output of a command, with stderr if `both`. Raises ReleaseError with all of it."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)  # noqa: S603 - tools named here
    if done.returncode != 0:
        raise ReleaseError(f"{' '.join(command)} failed:\n{done.stderr}{done.stdout}")
    return done.stdout + (done.stderr if both else "")


def release(arguments: argparse.Namespace) -> None:
    """Make the release, or try it. Raises ReleaseError."""
    version = check(arguments.version, dry_run=arguments.dry_run)
    with contextlib.ExitStack() as stack:
        if arguments.dry_run:
            registry = stack.enter_context(local_registry())
            target = Target(f"{registry}/light-tts", f"oci://{registry}/light-tts", plain_http=True)
        else:
            target = Target(arguments.images, arguments.charts)
        if not arguments.dry_run and shutil.which("cosign") is None:
            raise ReleaseError("cosign is missing: images and chart must be signed")
        chart = stage_chart(target.images, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        if arguments.dry_run:
            _say("images: not built in a dry run; `make images-check` builds and runs them")
        else:
            publish_images(target, version)
        reference = publish_chart(arguments.helm, chart, target, version, arguments.out)
        _say(f"chart: {reference}")
        strange = rendered_images(arguments.helm, target, version) - published_images(target.images, version)
        if strange:
            raise ReleaseError(f"the chart names images that are not released: {', '.join(sorted(strange))}")
        _say("chart: read back and rendered; it names only images of this release")
        bill = make_sbom(version, arguments.out)
        if arguments.dry_run:
            _say("signatures: not made in a dry run")
        else:
            sign([*sorted(published_images(target.images, version)), reference], bill)
            _say("signatures: made for the images and the chart")


def main(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.release", description=__doc__)
    parser.add_argument("--version", default="", help="the version; it must be the one in pyproject.toml")
    parser.add_argument("--images", default="docker.io/light-tts", help="registry and path of the images")
    parser.add_argument(
        "--charts", default="oci://registry-1.docker.io/light-tts", help="registry and path of the chart"
    )
    parser.add_argument("--helm", default="helm", help="the helm program")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "release", help="folder of chart and SBOM")
    parser.add_argument("--dry-run", action="store_true", help="use a registry of this machine, sign nothing")
    try:
        release(parser.parse_args(given))
    except ReleaseError as error:
        sys.stderr.write(f"release: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
