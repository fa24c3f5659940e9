"""`python -m tools.versions helm/Chart.yaml`: writes the package's version and its changes into the chart.

`pyproject.toml` holds the version of everything that is released: package, chart and images. `Dockerfiles/build.sh`
reads it there; the chart names the images by its appVersion, and Helm reads no other file.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from tools.arguments import path_to_write

_ROOT = Path(__file__).parents[1]


def package_version() -> str:
    """Return the version in `pyproject.toml`. Raises ValueError unless it is MAJOR.MINOR.PATCH, as Helm demands."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version = str(project["version"])
    if re.fullmatch(r"\d+\.\d+\.\d+", version) is None:
        raise ValueError(f"version {version!r} in pyproject.toml is not MAJOR.MINOR.PATCH, which Helm demands")
    return version


def with_version(chart: str, version: str) -> str:
    """Return the text of a Chart.yaml with `version` as the version of chart, application and images."""
    chart = re.sub(r"(?m)^version: .*$", f"version: {version}", chart)
    chart = re.sub(r"(?m)(/light-tts-[a-z]+:)[0-9.]+", rf"\g<1>{version}", chart)
    return re.sub(r"(?m)^appVersion: .*$", f'appVersion: "{version}"', chart)


def changes(changelog: str, version: str) -> list[dict[str, str]]:
    """Return the changes of a version for Artifact Hub: the first sentence of each entry of the changelog, by kind."""
    section = changelog.partition(f"\n## {version}\n")[2].partition("\n## ")[0]
    found = []
    kind = "added"
    for part in re.split(r"\n(?=- |### )", section):
        if part.startswith("### "):
            kind = part.removeprefix("### ").strip().lower()
            continue
        sentence = re.split(r"(?<=\.)\s", " ".join(part.removeprefix("- ").split()), maxsplit=1)[0]
        if sentence:
            found.append({"kind": kind, "description": sentence})
    return found


def with_changes(chart: str, entries: list[dict[str, str]]) -> str:
    """Return the text of a Chart.yaml with these changes in its annotation for Artifact Hub."""
    lines = "".join(
        f"    - kind: {each['kind']}\n      description: {json.dumps(each['description'])}\n" for each in entries
    )
    block = f"  artifacthub.io/changes: |\n{lines}"
    return re.sub(r"(?m)^  artifacthub\.io/changes: \|\n(?:    .*\n)*", lambda _: block, chart)


def main(path: Path) -> None:
    version = package_version()
    chart = with_version(path.read_text(encoding="utf-8"), version)
    entries = changes((_ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version)
    path.write_text(with_changes(chart, entries), encoding="utf-8")


if __name__ == "__main__":
    main(path_to_write(__doc__))
