"""What the package, the chart and the images have in common."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from tools.versions import changes, package_version, with_changes, with_version

ROOT = Path(__file__).parents[2]
RUN_PYTHON = re.compile(r"""\bpython\b[\s"',]*(-P[\s"',]*)?-m[\s"',]*(?:services|gateway)\b""")


@pytest.mark.parametrize("folder", ["Dockerfiles", "helm/templates"])
def test_services_import_nothing_from_their_current_folder(folder: str) -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / folder).iterdir() if path.is_file()}
    commands = [(path.name, match) for path, text in texts.items() for match in RUN_PYTHON.finditer(text)]
    assert len(commands) >= 4
    assert not [f"{name}: {match[0]}" for name, match in commands if match[1] is None]


def test_the_client_has_the_version_of_the_package() -> None:
    """Its stubs are those of this version."""
    project = tomllib.loads((ROOT / "clients" / "python" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == package_version()


def test_the_chart_has_the_version_of_the_package() -> None:
    chart = yaml.safe_load((ROOT / "helm" / "Chart.yaml").read_text(encoding="utf-8"))
    assert (chart["version"], chart["appVersion"]) == (package_version(), package_version()), "run: make format"


@pytest.mark.parametrize("variant", ["cpu", "cuda"])
def test_images_are_tagged_with_the_version_of_the_package(variant: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("VERSION", "IMAGES")}
    done = subprocess.run(
        [ROOT / "Dockerfiles" / "build.sh", "push", variant],
        env={**environment, "BUILDER": "echo"},
        capture_output=True,
        text=True,
        check=True,
    )
    version = package_version()
    services = [f"{service}:{version}-{variant}" for service in ("encode", "llm", "decode")]
    names = [f"gateway:{version}", *services]
    assert done.stdout.splitlines() == [f"push docker.io/light-tts/light-tts-{name}" for name in names]


def test_the_changelog_has_a_section_for_the_version() -> None:
    assert f"\n## {package_version()}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_a_new_version_is_written_into_the_chart() -> None:
    chart = 'apiVersion: v2\nname: light-tts\nversion: 0.1.0\nappVersion: "0.1.0"\nkubeVersion: ">=1.31.0-0"\n'
    assert with_version(chart, "1.20.3") == chart.replace("0.1.0", "1.20.3")


def test_the_chart_tells_artifact_hub_about_the_version() -> None:
    chart = (ROOT / "helm" / "Chart.yaml").read_text(encoding="utf-8")
    version = package_version()
    entries = changes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version)
    assert with_changes(with_version(chart, version), entries) == chart, "run: make format"
    annotations = yaml.safe_load(chart)["annotations"]
    assert yaml.safe_load(annotations["artifacthub.io/changes"]) == entries
    images = {each["image"] for each in yaml.safe_load(annotations["artifacthub.io/images"])}
    assert all(f":{version}" in image for image in images)


def test_changes_are_the_first_sentences_of_a_version_s_section() -> None:
    changelog = (
        "# Changelog\n\n## 2.0.0\n\n### Changed\n\n- One `thing`\n  is new. More.\n- Two.\n\n### Fixed\n\n- Three.\n\n"
        "## 1.0.0\n\nFirst version. It\nspeaks.\n"
    )
    assert changes(changelog, "2.0.0") == [
        {"kind": "changed", "description": "One `thing` is new."},
        {"kind": "changed", "description": "Two."},
        {"kind": "fixed", "description": "Three."},
    ]
    assert changes(changelog, "1.0.0") == [{"kind": "added", "description": "First version."}]
