"""`python -m tools.chart.schema helm/values.schema.json`: writes the schema of the values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gateway.settings import GatewaySettings
from services.common.settings import ServiceSettings
from services.decode.settings import DecodeSettings
from services.encode.settings import EncodeSettings
from services.llm.settings import LlmSettings
from tools.arguments import path_to_write
from tools.chart.values import ChartValues

SERVICES: dict[str, type[ServiceSettings]] = {
    "encode": EncodeSettings,
    "llm": LlmSettings,
    "decode": DecodeSettings,
    "gateway": GatewaySettings,
}
CHART_OWNED = frozenset(
    {
        "host",
        "port",
        "http_port",
        "cosyvoice_port",
        "metrics_port",
        "health_port",
        "worker_name",
        "model_dir",
        "decode_cache_dir",
        "encode_target",
        "llm_target",
        "decode_target",
        "api_keys_file",
        "public_tls_cert",
        "public_tls_key",
        "voices_dir",
        "tls_cert",
        "tls_key",
        "tls_ca",
        "tls_server_name",
        "tls_listen",
    }
)
"""Settings that the chart derives from other values. A second source could only contradict the first."""


def values_schema() -> dict[str, Any]:
    """Return a JSON schema (draft 7, for Helm 3 and 4) that rejects unknown names at every level."""
    schema = ChartValues.model_json_schema()
    for name, settings in SERVICES.items():
        schema["properties"][name] = _with_settings(schema, name, [settings])
    schema["properties"]["single"] = _with_settings(schema, "single", list(SERVICES.values()))
    schema.pop("description", None)
    return {"$schema": "http://json-schema.org/draft-07/schema#", **_plain(schema), "title": "light-tts"}


def schema_text() -> str:
    """Return the text of the committed file."""
    return json.dumps(values_schema(), indent=1, ensure_ascii=False) + "\n"


def _with_settings(schema: dict[str, Any], name: str, classes: list[type[ServiceSettings]]) -> dict[str, Any]:
    """Add the definition of a service, its workload with its settings, and return a reference to it."""
    workload = schema["$defs"][schema["properties"][name]["$ref"].rpartition("/")[2]]
    properties: dict[str, Any] = {}
    for settings in classes:
        for field, text in settings.model_json_schema()["properties"].items():
            if field not in CHART_OWNED:
                default = f" Default: {json.dumps(text['default'])}." if text.get("default") is not None else ""
                properties[field] = {**text, "description": text["description"] + default}
    closed = {"type": "object", "additionalProperties": False, "properties": properties}
    own = {**workload, "properties": {**workload["properties"], "settings": closed}}
    schema["$defs"][name.capitalize() + "Values"] = own
    return {"$ref": f"#/$defs/{name.capitalize()}Values"}


def _plain(node: Any) -> Any:
    """Return the schema without pydantic's titles, and without the defaults, which are in values.yaml."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: {name: _plain(item) for name, item in value.items()} if key in ("properties", "$defs") else _plain(value)
        for key, value in node.items()
        if key not in ("title", "default")
    }


def main(path: Path) -> None:
    path.write_text(schema_text(), encoding="utf-8")


if __name__ == "__main__":
    main(path_to_write(__doc__))
