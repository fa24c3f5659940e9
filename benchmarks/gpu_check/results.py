"""Writes the results of a run to results.json and results.md."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

OK, SKIPPED, FAILED, TIMED_OUT = "ok", "skipped", "failed", "timed out"


@dataclass(frozen=True)
class StepResult:
    """The result of one step."""

    name: str
    outcome: str
    """`ok`, `skipped`, `failed` or `timed out`."""
    seconds: float = 0.0
    reason: str = ""
    """Why it was skipped or failed."""
    values: dict[str, Any] = field(default_factory=dict)
    """Measured values by name, in order; complete up to the end or the timeout."""

    @property
    def failed(self) -> bool:
        return self.outcome in (FAILED, TIMED_OUT)


def read_record(record: Path) -> dict[str, Any]:
    """Return the values that a step process has written so far."""
    if not record.exists():
        return {}
    values = {}
    for line in record.read_text(encoding="utf-8").splitlines():
        try:
            name, value = json.loads(line)
        except ValueError:  # the process was killed while it wrote its last line
            continue
        values[name] = value
    return values


def write(out: Path, card: str, results: list[StepResult]) -> None:
    """Write results.json and results.md into `out`; `card` names the device."""
    steps = {result.name: asdict(result) for result in results}
    document = json.dumps({"card": card, "steps": steps}, indent=1)
    (out / "results.json").write_text(document + "\n", encoding="utf-8")
    (out / "results.md").write_text(markdown(card, results), encoding="utf-8")


def markdown(card: str, results: list[StepResult]) -> str:
    """Return a table of all steps, then a table of each step's values."""
    lines = [f"# GPU check: {card}", "", "| step | outcome | seconds |", "|---|---|---|"]
    for result in results:
        reason = f": {_cell(result.reason)}" if result.reason else ""
        lines.append(f"| {result.name} | {result.outcome}{reason} | {result.seconds:.1f} |")
    for result in results:
        if result.values:
            lines += ["", f"## {result.name}", *_values(card, result.values)]
    return "\n".join(lines) + "\n"


def _values(card: str, values: dict[str, Any]) -> list[str]:
    """Return one table of the short values, then the longer ones as code blocks."""
    long = {name: value for name, value in values.items() if isinstance(value, str) and "\n" in value}
    short = [(name, value) for name, value in values.items() if name not in long]
    lines = ["", f"| | {_cell(card)} |", "|---|---|"] if short else []
    lines += [f"| {_cell(name)} | {_cell(value)} |" for name, value in short]
    for name, text in long.items():
        lines += ["", f"{name}:", "", "```", text.strip("\n"), "```"]
    return lines


def _cell(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return " ".join(text.split()).replace("|", "\\|")
