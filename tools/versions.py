"""`python -m tools.versions helm/Chart.yaml`: writes the package's version into the chart.

`pyproject.toml` holds the version of everything that is released: package, chart and images. `Dockerfiles/build.sh`
reads it there; the chart names the images by its appVersion, and Helm reads no other file.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

_ROOT = Path(__file__).parents[1]


def package_version() -> str:
    """Return the version in `pyproject.toml`. Raises ValueError unless it is MAJOR.MINOR.PATCH, as Helm demands."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version = str(project["version"])
    if re.fullmatch(r"\d+\.\d+\.\d+", version) is None:
        raise ValueError(f"version {version!r} in pyproject.toml is not MAJOR.MINOR.PATCH, which Helm demands")
    return version


def with_version(chart: str, version: str) -> str:
    """Return the text of a Chart.yaml with `version` as the chart's version and appVersion."""
    chart = re.sub(r"(?m)^version: .*$", f"version: {version}", chart)
    return re.sub(r"(?m)^appVersion: .*$", f'appVersion: "{version}"', chart)


def main(path: Path) -> None:
    path.write_text(with_version(path.read_text(encoding="utf-8"), package_version()), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
