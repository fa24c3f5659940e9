"""`python -m tools.chart.documented helm`: completes and documents values.yaml, and writes the tables of its README.

The values in `values.yaml` are its own: edit them there. Their order, what is missing, and every comment come from the
types in `tools.chart.values`, as the schema does. A comment begins with `# --`, as the tools for charts read it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic.fields import FieldInfo

from tools.arguments import path_to_write
from tools.chart.values import ChartValues
from tools.chart.workloads import Affinity, Resources, UpdateStrategy, Values, Workload

WIDTH = 118
HEADER = """\
# Values of light-tts: one llm and three decode workers on GPUs, with the official CosyVoice2.
# Edit values here; `make format` adds what is missing, and writes the comments and values.schema.json.
"""
AS_GIVEN = (Affinity, Resources, UpdateStrategy)
"""Types that stay a map, empty by default: the templates replace an empty one."""
BEGIN, END = "<!-- values: written by make format -->", "<!-- end of the values -->"


@dataclass(frozen=True)
class Entry:
    """One value, or a section of values."""

    path: tuple[str, ...]
    description: str
    value: Any
    """None for a section."""
    section: type[Values] | None = None

    @property
    def name(self) -> str:
        return ".".join(self.path)


def entries(given: Mapping[str, Any]) -> Iterator[Entry]:
    """Yield every value of the chart, with the values of a values.yaml, in the order of the types."""
    return _entries(ChartValues, ChartValues(), given, ())


def _entries(kind: type[Values], defaults: Values, given: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[Entry]:
    for name, field in kind.model_fields.items():
        alias = str(field.alias)
        own = (*path, alias)
        default = getattr(defaults, name)
        section = _section(field)
        description = field.description or (section.__doc__ if section else None)
        if description is None:
            raise ValueError(f"the value {'.'.join(own)} has no description")
        words = " ".join(description.split())
        if section is None or issubclass(section, AS_GIVEN):
            yield Entry(own, words, given.get(alias, {} if section else default))
        else:
            yield Entry(own, words, None, section)
            yield from _entries(section, default, given.get(alias) or {}, own)


def _section(field: FieldInfo) -> type[Values] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Values) else None


def values_text(given: Mapping[str, Any]) -> str:
    """Return the text of a documented values.yaml with these values."""
    lines = [HEADER]
    for entry in entries(given):
        indent = "  " * (len(entry.path) - 1)
        if len(entry.path) == 1 and lines[-1] != HEADER:
            lines.append("")
        comment = textwrap.wrap(f"-- {entry.description}", WIDTH - len(indent) - 2)
        lines += [f"{indent}# {line}" for line in comment]
        lines += [f"{indent}{line}" for line in _assigned(entry)]
    return "\n".join(lines) + "\n"


def _assigned(entry: Entry) -> list[str]:
    name = entry.path[-1]
    if entry.section is not None:
        return [f"{name}:"]
    if isinstance(entry.value, dict) and entry.value:
        block = yaml.safe_dump(entry.value, sort_keys=False, width=10_000)
        return [f"{name}:", *(f"  {line}" for line in block.splitlines())]
    return [f"{name}: {_flow(entry.value)}"]


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True)
    text = text.removesuffix("\n").removesuffix("\n...")
    return '""' if text == "''" else text


def tables(given: Mapping[str, Any]) -> str:
    """Return the README's tables: values of the chart, and those that every service has."""
    services = [
        name for name, field in ChartValues.model_fields.items() if issubclass(_section(field) or Values, Workload)
    ]
    shared: dict[tuple[str, ...], dict[str, Entry]] = {}
    rows = []
    for entry in entries(given):
        if entry.section is not None:
            continue
        head, rest = entry.path[0], entry.path[1:]
        if head in services and _is_shared(rest):
            shared.setdefault(rest, {})[head] = entry
        else:
            rows.append(_row(entry.name, entry.description, _default(entry)))
    table = ["| value | default | meaning |", "|---|---|---|"]
    of_services = [
        _row(f"<service>.{'.'.join(rest)}", next(iter(each.values())).description, _defaults(each))
        for rest, each in shared.items()
    ]
    head = "`<service>` is `encode`, `llm`, `decode`, `gateway` or `single`."
    return "\n".join([*table, *rows, "", head, "", *table, *of_services])


def _is_shared(path: tuple[str, ...]) -> bool:
    kind: type[Values] | None = Workload
    for alias in path:
        fields = {str(field.alias): field for field in kind.model_fields.values()} if kind is not None else {}
        if alias not in fields:
            return False
        kind = _section(fields[alias])
    return True


def _row(name: str, description: str, default: str) -> str:
    return f"| `{name}` | {default} | {description} |"


def _default(entry: Entry) -> str:
    return f"`{_flow(entry.value)}`"


def _defaults(each: Mapping[str, Entry]) -> str:
    """Return one default, or those that differ by service."""
    texts = {name: _default(entry) for name, entry in each.items()}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return "; ".join(f"{name} {text}" for name, text in texts.items())


def readme_text(readme: str, given: Mapping[str, Any]) -> str:
    """Return a README with its tables replaced."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables(given)}\n\n{END}{after}"


def main(chart: Path) -> None:
    values, readme = chart / "values.yaml", chart / "README.md"
    given = yaml.safe_load(values.read_text(encoding="utf-8"))
    values.write_text(values_text(given), encoding="utf-8")
    readme.write_text(readme_text(readme.read_text(encoding="utf-8"), given), encoding="utf-8")


if __name__ == "__main__":
    main(path_to_write(__doc__))
