"""The committed schema of the chart's values is the one its sources make; no helm is needed to see it."""

from __future__ import annotations

import json
from typing import Any

from tests.support.helm import CHART
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
                assert node.get("additionalProperties") is False, path
            for key, value in node.items():
                visit(value, f"{path}/{key}")

    visit(json.loads(schema_text()), "")
