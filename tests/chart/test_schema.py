"""The committed schema of the chart's values is the one its sources make; no helm is needed to see it."""

from __future__ import annotations

import json
from typing import Any

import yaml

from tests.support.helm import CHART
from tools.chart.documented import entries, readme_text, values_text
from tools.chart.schema import CHART_OWNED, SERVICES, schema_text, values_schema


def test_the_committed_schema_is_current() -> None:
    committed = (CHART / "values.schema.json").read_text(encoding="utf-8")
    assert committed == schema_text(), "run: make format"


def test_every_setting_is_a_value_with_its_text() -> None:
    schema = values_schema()
    for name, settings in SERVICES.items():
        known = schema["$defs"][f"{name.capitalize()}Values"]["properties"]["settings"]["properties"]
        for field, info in settings.model_fields.items():
            assert (field in known) != (field in CHART_OWNED), f"{name}.settings.{field}"
            assert field in CHART_OWNED or str(info.description) in known[field]["description"]


def test_every_level_is_closed() -> None:
    def visit(node: Any, path: str) -> None:
        if isinstance(node, dict):
            if "properties" in node:
                # A parent chart's global values reach all of its charts.
                assert node.get("additionalProperties") is (path == "/$defs/Global"), path
            for key, value in node.items():
                visit(value, f"{path}/{key}")

    visit(json.loads(schema_text()), "")


def given() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    return loaded


def test_the_committed_values_are_documented_and_so_is_the_readme() -> None:
    assert (CHART / "values.yaml").read_text(encoding="utf-8") == values_text(given()), "run: make format"
    readme = (CHART / "README.md").read_text(encoding="utf-8")
    assert readme == readme_text(readme, given()), "run: make format"


def test_values_yaml_shows_every_value_of_the_schema() -> None:
    schema = values_schema()

    def missing(node: dict[str, Any], values: Any, path: str) -> list[str]:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
        if not values or path.endswith((".settings", ".resources")):  # maps of the user's own
            return []
        return [
            name
            for key, child in node.get("properties", {}).items()
            for name in ([f"{path}.{key}"] if key not in values else missing(child, values[key], f"{path}.{key}"))
        ]

    assert not missing(schema, given(), "")


def test_every_value_has_a_description_that_is_a_sentence_or_more() -> None:
    for entry in entries({}):
        assert entry.description.rstrip().endswith((".", "...")), entry.name
