"""A release, tried: the chart goes through a real registry and names only images that the release pushes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml
from packaging.utils import canonicalize_name

from tests.support.helm import ROOT, VERSIONS, helm
from tools import sbom
from tools.release import published_images
from tools.versions import package_version


def release(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.release", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_version_that_the_tree_does_not_have_is_refused() -> None:
    done = release("--dry-run", "--version", "9.9.9")
    assert done.returncode == 1
    assert f"VERSION is 9.9.9, but pyproject.toml has {package_version()}" in done.stderr


def build(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run build.sh with a builder that prints its arguments."""
    return subprocess.run(
        ["bash", "Dockerfiles/build.sh", *arguments],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "BUILDER": "echo", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("variant", ["cpu", "cuda"])
def test_the_gateway_and_the_cpu_variant_are_built_for_several_platforms(variant: str) -> None:
    both = "linux/amd64,linux/arm64"
    built = [line for line in build("build", variant, PLATFORMS=both).stdout.splitlines() if line.startswith("build ")]
    pushed = build("push", variant, PLATFORMS=both).stdout.splitlines()
    assert (len(built), len(pushed)) == (6, 4)
    for line in built:
        assert (f"--platform {both} --manifest " in line) is ("-cuda" not in line.split()[-2]), line
    for line in pushed:
        assert line.startswith("manifest push --all ") is ("-cuda" not in line), line
    assert not any("platform" in line for line in build("build", variant).stdout.splitlines())


def test_docker_cannot_build_several_platforms() -> None:
    refused = build("build", "cpu", PLATFORMS="linux/arm64", BUILDER="docker")
    assert refused.returncode == 2
    assert "PLATFORMS needs BUILDER=podman" in refused.stderr


def test_the_chart_s_default_images_are_those_that_a_release_pushes() -> None:
    version = package_version()
    done = build("push", "cpu")
    assert done.returncode == 0, done.stderr
    pushed = {line.removeprefix("push ") for line in done.stdout.splitlines()}
    assert pushed <= published_images("docker.io/light-tts", version)
    annotations = yaml.safe_load((ROOT / "helm" / "Chart.yaml").read_text(encoding="utf-8"))["annotations"]
    named = {each["image"] for each in yaml.safe_load(annotations["artifacthub.io/images"])}
    assert named <= published_images("docker.io/light-tts", version)


@pytest.mark.system
def test_the_page_of_the_installation_pushes_all_images_that_it_installs() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    pushed: set[str] = set()
    for variant, images in re.findall(r"^make push (?:VARIANT=(\w+) )?IMAGES=(\S+)", page, re.MULTILINE):
        done = build("push", variant or "cpu", IMAGES=images)
        pushed |= {line.removeprefix("push ") for line in done.stdout.splitlines()}
    (registry,) = re.findall(r"--set global\.imageRegistry=(\S+)", page)
    objects = helm(VERSIONS[-1]).render("values.yaml", f'global.imageRegistry="{registry}"')
    installed = set(re.findall(r'"image": "([^"]+)"', json.dumps(objects)))
    assert len(installed) == 4
    assert installed <= pushed


@pytest.mark.system
@pytest.mark.skipif(sbom.program() is None, reason="needs cyclonedx-py, see `make release`")
@pytest.mark.skipif(shutil.which("docker-registry") is None, reason="needs docker-registry (Debian package)")
@pytest.mark.parametrize("version", VERSIONS)
def test_a_chart_from_a_registry_renders_with_the_images_of_its_release(tmp_path: Path, version: str) -> None:
    done = release("--dry-run", "--helm", str(helm(version).binary), "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "read back and rendered; it names only images of this release" in done.stdout
    (package,) = tmp_path.glob("light-tts-*.tgz")
    with tarfile.open(package) as chart:
        content = chart.extractfile("light-tts/values.yaml")
        assert content is not None
        values = yaml.safe_load(content.read())
    assert {values[name]["image"]["registry"].partition(":")[0] for name in ("encode", "gateway")} == {"127.0.0.1"}
    bill = json.loads(next(tmp_path.glob("light-tts-*.cdx.json")).read_text(encoding="utf-8"))
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "light-tts")
    listed = {canonicalize_name(each["name"]) for each in bill["components"]}
    assert {"grpcio", "torch", "pydantic-core", "redis"} <= listed
    assert not {"pytest", "ruff", "mypy", "hypothesis"} & listed
    assert all(each["version"] and each["purl"].startswith("pkg:pypi/") for each in bill["components"])
