"""The chart as a part of a parent chart, which gives it values that a chart alone never gets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.helm import CHART, Helm, HelmError

pytestmark = pytest.mark.system

GLOBAL = {"region": "eu", "imageRegistry": "registry.example", "imagePullSecrets": [{"name": "pull"}, "more"]}
"""Values of all charts of the parent; charts differ in what they expect in the list."""


def parent(folder: Path, **values: Any) -> Path:
    """Make a chart that contains this one under a condition; return its folder."""
    needs = {"name": "light-tts", "version": "*", "condition": "light-tts.enabled"}
    card = {"apiVersion": "v2", "name": "parent", "version": "1.0.0", "dependencies": [needs]}
    (folder / "charts").mkdir()
    (folder / "charts" / "light-tts").symlink_to(CHART)
    (folder / "Chart.yaml").write_text(json.dumps(card), encoding="utf-8")
    (folder / "values.yaml").write_text(json.dumps({"light-tts": values, "global": GLOBAL}), encoding="utf-8")
    return folder


@pytest.mark.parametrize("enabled", [True, False])
def test_a_parent_chart_enables_it_by_a_condition(each_helm: Helm, tmp_path: Path, enabled: bool) -> None:
    objects = Helm(each_helm.binary, parent(tmp_path, enabled=enabled)).render()
    pods = [each["spec"]["template"]["spec"] for each in objects if each["kind"] == "Deployment"]
    assert bool(pods) is enabled
    for pod in pods:
        assert pod["imagePullSecrets"] == [{"name": "pull"}, {"name": "more"}]
        assert pod["containers"][0]["image"].startswith("registry.example/")


def test_the_chart_alone_cannot_be_disabled(each_helm: Helm) -> None:
    with pytest.raises(HelmError, match="enabled"):
        each_helm.render("values.yaml", "enabled=false")
