"""`python -m tools.settings_reference docs/settings.md`: lists every setting of every service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from services.common.settings import EMBEDDED_MODEL, ModelServiceSettings, ServiceSettings
from tools.arguments import path_to_write
from tools.chart.schema import CHART_OWNED, SERVICES

INTRODUCTION = """\
# Settings

`make format` writes this page from the settings classes. `python -m services.decode --help`, for example, prints the
settings of one service.

The setting `decode_max_streams` is the flag `--decode-max-streams`, the environment variable
`LIGHTTTS_DECODE_MAX_STREAMS` and the chart's value `decode.settings.decode_max_streams`. Flags override the
environment, which overrides the defaults. A wrong name or value ends the process with an error that names it.
The chart derives the settings marked with * from other values.
"""
_SHARED = (ServiceSettings, ModelServiceSettings)


def reference() -> str:
    """Return the text of the committed page."""
    parts = [INTRODUCTION, _section("Every service", ServiceSettings, set())]
    parts.append(_section("encode, llm and decode", ModelServiceSettings, set(ServiceSettings.model_fields)))
    for name, settings in SERVICES.items():
        base = ModelServiceSettings if issubclass(settings, ModelServiceSettings) else ServiceSettings
        known = {field for field in base.model_fields if _same(base, settings, field)}
        parts.append(_section(name, settings, known))
    return "\n".join(parts)


def _section(title: str, settings: type[ServiceSettings], known: set[str]) -> str:
    properties = settings.model_json_schema()["properties"]
    rows = [_row(field, properties[field]) for field in settings.model_fields if field not in known]
    return "\n".join([f"## {title}\n", "| setting | default | meaning |", "|---|---|---|", *rows, ""])


def _row(field: str, schema: dict[str, Any]) -> str:
    description = " ".join(schema["description"].split()).replace("|", "\\|")
    choices = schema.get("enum")
    if choices:
        description += " One of " + ", ".join(f"`{choice}`" for choice in choices) + "."
    mark = " *" if field in CHART_OWNED else ""
    return f"| `{field}`{mark} | {_default(schema)} | {description} |"


def _default(schema: dict[str, Any]) -> str:
    default = schema.get("default")
    if default is None or default == "":
        return ""
    if default == str(EMBEDDED_MODEL):
        return "the embedded voice"
    if isinstance(default, str):
        return f"`{default.replace(str(Path.home()), '~')}`"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, list):
        return ", ".join(f"`{item}`" for item in default)
    if isinstance(default, int) and default >= 2**20 and default % 2**20 == 0:
        return f"{default} ({default // 2**20} MiB)"
    return (
        f"`{default}`" if isinstance(default, str) else f"{default:g}" if isinstance(default, float) else str(default)
    )


def _same(base: type[ServiceSettings], settings: type[ServiceSettings], field: str) -> bool:
    ours, theirs = settings.model_fields[field], base.model_fields[field]
    return ours.default == theirs.default and ours.description == theirs.description


def main(path: Path) -> None:
    path.write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main(path_to_write(__doc__))
